"""Local copies of remote data: whole or not there, within the limit, the least used make room, safe among processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import tarfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_core import storage
from ldm_core.builtin.readers.config import FolderConfig, TarConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.errors import ConfigError, StorageError
from ldm_core.storage import cache as data_cache
from ldm_core.storage.cache import DataCache


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """A folder in memory, which is as remote as any to the cache."""
    return f"memory://cache-{tmp_path.name}"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each remote file is opened or read."""
    seen: Counter[str] = Counter()
    for name in ("open_read", "read_bytes"):
        real = getattr(storage, name)

        def counted(url: Any, *args: Any, real: Any = real, name: str = name) -> Any:
            if storage.local_path(url) is None:
                seen[storage.base_name(str(url))] += 1
            return real(url, *args)

        monkeypatch.setattr(storage, name, counted)
    return seen


def put(remote: str, name: str, data: bytes) -> storage.FileInfo:
    url = storage.join(remote, name)
    storage.atomic_write(url, data)
    return storage.info(url)


def held(cache: DataCache) -> int:
    return sum(p.stat().st_size for p in cache.folder.glob("??/*"))


def shard(start: int, stop: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(start, stop):
            data = images.png_bytes(np.full((3, side, side), number, dtype=np.uint8))
            member = tarfile.TarInfo(f"s{number:03d}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_a_file_is_fetched_once_and_again_when_it_changed(tmp_path: Path, remote: str, reads: Counter[str]) -> None:
    cache = DataCache(str(tmp_path / "cache"), 10_000)
    file = put(remote, "a", b"x" * 100)
    for _ in range(3):
        copy = cache.copy(file)
        assert copy is not None and copy.read_bytes() == b"x" * 100
    assert reads["a"] == 1
    changed = put(remote, "a", b"y" * 101)
    copy = cache.copy(changed)
    assert copy is not None and copy.read_bytes() == b"y" * 101 and reads["a"] == 2
    marked = storage.FileInfo(changed.url, 101, "another etag")
    assert cache.copy(marked) != copy and reads["a"] == 3  # the same size is not the same file
    assert DataCache(str(tmp_path / "cache"), 10_000).copy(changed) == copy and reads["a"] == 3


def test_files_told_apart_by_their_query_alone_are_two(tmp_path: Path, remote: str) -> None:
    """Of servers without ETags; where there is one, a query may be a signature and is passed over."""
    cache = DataCache(str(tmp_path / "cache"), 10_000)
    one, other = (put(remote, f"download?id={i}", b"%d" % i * 100) for i in (1, 2))
    assert not one.mark and [cache.copy(f).read_bytes()[:1] for f in (one, other)] == [b"1", b"2"]  # type: ignore[union-attr]
    marked = [storage.FileInfo(f.url, 100, "etag") for f in (one, other)]
    assert cache.copy(marked[0]) == cache.copy(marked[1])


def test_local_and_oversized_files_are_left_where_they_are(tmp_path: Path, remote: str) -> None:
    cache = DataCache(str(tmp_path / "cache"), 99)
    assert cache.copy(put(remote, "a", b"x" * 100)) is None
    (tmp_path / "b").write_bytes(b"x")
    assert cache.copy(storage.info(str(tmp_path / "b"))) is None
    with pytest.raises(ConfigError, match=r"data\.cache: s3://bucket/x is remote; give a folder on a local disk"):
        DataCache("s3://bucket/x", 10)


def test_what_was_not_used_for_longest_makes_room(
    tmp_path: Path, remote: str, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DataCache(str(tmp_path / "cache"), 1000)
    monkeypatch.setattr(data_cache, "_TOUCH", 0.0)
    files = [put(remote, f"f{i}", bytes([i]) * 300) for i in range(4)]
    for age, file in enumerate(files[:3]):
        copy = cache.copy(file)
        assert copy is not None
        os.utime(copy, (age, age))
    assert cache.copy(files[0]) is not None  # used: now the youngest
    assert cache.copy(files[3]) is not None
    assert held(cache) <= 1000
    reads.clear()
    for number, again in ((0, 0), (3, 0), (1, 1)):
        cache.copy(files[number])
        assert reads[f"f{number}"] == again
    for i in range(30):  # whatever is asked for, the limit holds
        cache.copy(put(remote, f"g{i}", b"z" * (17 * i + 1)))
        assert held(cache) <= 1000


def test_a_part_that_a_killed_process_left_is_not_taken_for_the_file(tmp_path: Path, remote: str) -> None:
    cache = DataCache(str(tmp_path / "cache"), 1000)
    file = put(remote, "a", b"good" * 50)
    copy = cache.copy(file)
    assert copy is not None
    copy.unlink()
    copy.with_suffix(".part").write_bytes(b"goo")
    again = cache.copy(file)
    assert again == copy and again.read_bytes() == b"good" * 50
    assert not list(cache.folder.glob("??/*.part"))
    other = cache.folder / "ab" / f"{'ab' * 32}.part"  # of a file that nobody asks for any more
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"x" * 900)
    os.utime(other, (1, 1))
    (cache.folder / "room").unlink()
    assert cache.copy(put(remote, "b", b"y" * 150)) is not None
    assert not other.exists() and held(cache) <= 1000
    copy.write_bytes(b"cut")  # a copy of another size is none
    assert cache.copy(file).read_bytes() == b"good" * 50  # type: ignore[union-attr]


def test_a_file_that_ends_early_is_an_error_and_leaves_nothing(tmp_path: Path, remote: str) -> None:
    cache = DataCache(str(tmp_path / "cache"), 1000)
    file = put(remote, "a", b"x" * 100)
    for size in (120, 80):
        with pytest.raises(StorageError, match="it was changed since the start; start again"):
            cache.copy(storage.FileInfo(file.url, size, file.mark))
    assert not [p for p in cache.folder.glob("??/*") if p.suffix != ".lock"]


def test_notes_are_kept_and_damaged_ones_are_not_believed(tmp_path: Path) -> None:
    cache = DataCache(str(tmp_path / "cache"), 1000)
    assert cache.recall("index", 1) is None
    cache.remember(b"where all is", "index", 1)
    assert cache.recall("index", 1) == b"where all is" and cache.recall("index", 2) is None
    (note,) = cache.folder.glob("??/*.note")
    note.write_bytes(note.read_bytes()[:-1])
    assert cache.recall("index", 1) is None


def _copies(folder: str, files: list[storage.FileInfo], source: str, log: str) -> None:
    real = storage.open_read

    def logged(url: Any) -> Any:
        with open(log, "a") as out:  # one short line: appended as a whole
            out.write(f"{storage.base_name(str(url))}\n")
        return real(Path(source) / storage.base_name(str(url)))

    data_cache.storage.open_read = logged  # type: ignore[attr-defined, assignment]
    cache = DataCache(folder, 100_000)
    for file in files:
        path = cache.copy(file)
        assert path is not None and path.read_bytes() == file.mark.encode() * (file.size // len(file.mark))


def test_processes_share_a_folder_and_fetch_each_file_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    files = []
    for i in range(12):
        (source / f"f{i}").write_bytes(f"{i:04d}".encode() * 500)
        files.append(storage.FileInfo(f"remote://host/f{i}", 2000, f"{i:04d}"))
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    arguments = [(str(tmp_path / "cache"), files[k:] + files[:k], str(source), str(log)) for k in (0, 0, 6)]
    workers = [context.Process(target=_copies, args=each, daemon=True) for each in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert Counter(log.read_text().split()) == {f"f{i}": 1 for i in range(12)}


# ----------------------------------------------------------------------------------------------- the readers


@pytest.mark.parametrize("limit", [1 << 20, 30_000])
def test_shards_are_read_from_their_copies(tmp_path: Path, remote: str, reads: Counter[str], limit: int) -> None:
    for number in range(4):
        put(remote, f"x-{number}.tar", shard(number * 10, number * 10 + 10, side=8))
    site = Site(size=(8, 8), cache=DataCache(str(tmp_path / "cache"), limit))
    data = TarDataset(TarConfig(url=remote, keep_bytes=0), site)
    order = np.random.default_rng(0).integers(0, 40, 60).tolist()
    assert all((data[i]["image"] == i).all() for i in order)
    assert held(site.cache) <= limit  # type: ignore[arg-type]
    if limit == 1 << 20:
        assert {name: reads[name] for name in reads if name.endswith(".tar")} == {f"x-{n}.tar": 1 for n in range(4)}
    sizes = data.image_sizes()
    assert sizes.shape == (40, 2) and (sizes == 8).all()


def test_a_second_run_reads_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        (tmp_path / f"x-{number}.tar").write_bytes(shard(number * 10, number * 10 + 10))
    site = Site(size=(8, 8), cache=DataCache(str(tmp_path / "cache"), 1 << 20))
    first = TarDataset(TarConfig(url=str(tmp_path)), site)
    _ = first.image_sizes()
    monkeypatch.setattr("ldm_core.builtin.readers.tar.index_shard", None)
    monkeypatch.setattr("ldm_core.data.records.pictures.picture_size", None)
    again = TarDataset(TarConfig(url=str(tmp_path)), site)
    assert again.fingerprint() == first.fingerprint() and (again[13]["image"] == 13).all()
    assert (again.image_sizes() == 8).all()
    changed = tmp_path / "x-1.tar"
    changed.write_bytes(shard(10, 20, side=9))
    with pytest.raises(TypeError):  # it looks again
        TarDataset(TarConfig(url=str(tmp_path)), site)


def test_pictures_of_a_folder_are_kept_too(tmp_path: Path, remote: str, reads: Counter[str]) -> None:
    for number in range(5):
        put(remote, f"{number}.png", images.png_bytes(np.full((3, 8, 8), number, dtype=np.uint8)))
    site = Site(size=(8, 8), cache=DataCache(str(tmp_path / "cache"), 1 << 20))
    data = FolderDataset(FolderConfig(url=remote), site)
    for _ in range(3):
        assert all((data[i]["image"] == i).all() for i in range(5))
    assert {reads[f"{i}.png"] for i in range(5)} == {1}


def test_threads_of_one_process_are_safe_too(tmp_path: Path, remote: str, reads: Counter[str]) -> None:
    cache = DataCache(str(tmp_path / "cache"), 10_000)
    file = put(remote, "a", b"x" * 5000)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(cache.copy(file).read_bytes()))) for _ in range(8)]  # type: ignore[union-attr]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [5000] * 8 and reads["a"] == 1


@pytest.mark.parametrize("name", ["room", "room.lock"])
def test_a_pipe_in_the_cache_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(StorageError, match="it is a pipe; only regular files are read and written"):
        DataCache(str(tmp_path), 1000).remember(b"x", "key")


@pytest.mark.parametrize("text", [b"", b"x", b"9" * 5000, b"\xff", b"-"])
def test_a_damaged_count_is_made_anew(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "room").write_bytes(text)
    cache = DataCache(str(tmp_path), 1000)
    cache.remember(b"x" * 10, "key")
    assert cache.recall("key") == b"x" * 10 and (tmp_path / "room").read_bytes() == b"42"
