"""Storage and the tar reader on an S3 server of our own (moto, on this machine)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from s3_server import s3_bucket

from ldm_core import storage
from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.errors import StorageError

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs the extra dev (moto)")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_bucket("box") as url:
        yield f"{url}/runs"


def test_round_trip(bucket: str) -> None:
    url = storage.join(bucket, "a", "weights.bin")
    storage.make_folder(storage.parent(url))
    storage.atomic_write(url, b"0123456789")
    assert storage.read_bytes(url, 2, 5) == b"234" and storage.info(url).size == 10
    assert storage.info(url).mark  # the ETag
    with storage.atomic_path(url) as part:
        part.write_bytes(b"new")
    assert storage.read_bytes(url) == b"new"
    storage.append_text(url, "er")
    assert storage.read_text(url) == "newer"
    assert [entry.url for entry in storage.list_files(bucket, recursive=True)] == [url]
    assert storage.expand(f"{bucket}/*/*.bin") == [url] and storage.is_folder(bucket)
    storage.remove(url)
    assert not storage.exists(url)


def test_one_of_many_creates_an_object(bucket: str) -> None:
    url = f"{bucket}/lock.json"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: storage.create(url, f"writer {number}".encode()), range(24)))
    assert sum(made) == 1 and storage.read_bytes(url) == f"writer {made.index(True)}".encode()
    assert storage.create(url, b"late") is False
    storage.remove(url)
    assert storage.create(url, b"again") is True


def test_errors(bucket: str) -> None:
    with pytest.raises(StorageError, match="cannot read s3://box/runs/none: no such file"):
        storage.read_bytes(f"{bucket}/none")
    with pytest.raises(StorageError, match=r"cannot write s3://other-box/x"):
        storage.atomic_write("s3://other-box/x", b"x")


def test_tars_from_s3(bucket: str) -> None:
    for shard in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(3):
                picture = images.png_bytes(np.full((3, 8, 8), 10 * shard + number, dtype=np.uint8))
                for name, data in ((f"{number}.png", picture), (f"{number}.txt", "größe".encode())):
                    member = tarfile.TarInfo(f"{shard}{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        storage.atomic_write(f"{bucket}/tars/x-{shard:06d}.tar", buffer.getvalue())
    for keep in (2**20, 0):  # whole shards in memory; single members by range
        tars = TarDataset(TarConfig(url=f"{bucket}/tars/x-{{000000..000001}}.tar", keep_bytes=keep), Site(size=(8, 8)))
        assert len(tars) == 6 and tars[4]["caption"] == "größe" and (tars[4]["image"] == 11).all()
