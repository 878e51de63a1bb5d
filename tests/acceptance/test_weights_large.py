"""Files of more than 4 GiB (sparse ones, which take no disk): numbers of 64 bits, and reading no more than is asked."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import hostile_pickles as pickles
import hostile_weights as hostile
import pytest
import torch

from ldm_core.weights.source import open_source

GIB = 1 << 30
NUMEL = (5 * GIB) // 4  # float32


def sparse_zip(path: Path, members: list[tuple[str, bytes, int]], *, checksums: bool) -> None:
    """A zip of members (name, beginning or end of the content, whole size), with zip64 fields where they are needed."""
    directory = b""
    with path.open("wb") as file:
        for name, data, size in members:
            begin, crc = file.tell(), zlib.crc32(data) if checksums else 0
            wide = size >= 0xFFFFFFFF
            short = 0xFFFFFFFF if wide else size
            extra = struct.pack("<2H2Q", 1, 16, size, size) if wide else b""
            head = (20, 0x800, 0, 0, 0, crc, short, short, len(name), len(extra))
            file.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", *head) + name.encode() + extra)
            file.seek(size - len(data), 1)
            file.write(data)
            more = extra[4:] + (struct.pack("<Q", begin) if begin >= 0xFFFFFFFF else b"")
            more = struct.pack("<2H", 1, len(more)) + more if more else b""
            directory += struct.pack(
                "<4s6H3L5H2L",
                b"PK\x01\x02",
                *(20, 20, 0x800, 0, 0, 0, crc, short, short, len(name), len(more), 0, 0, 0, 0),
                min(begin, 0xFFFFFFFF),
            )
            directory += name.encode() + more
        start, count, length = file.tell(), len(members), len(directory)
        file.write(directory)
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start))
        file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, start + length, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, length, 0xFFFFFFFF, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    try:
        with (tmp_path / "probe").open("wb") as file:
            file.truncate(11 * GIB)
    except OSError:
        pytest.skip("this disk keeps no sparse files")
    if (tmp_path / "probe").stat().st_blocks > 1000:
        pytest.skip("this disk keeps no sparse files")
    (tmp_path / "probe").unlink()
    return tmp_path


def test_a_zip_of_five_gigabytes(folder: Path) -> None:
    last = hostile.tensor(shape=(2, 3), offset=NUMEL - 6, numel=NUMEL, key="1")
    body = b"}(" + pickles.text("small") + hostile.tensor() + pickles.text("last") + last + b"u"
    members = [
        ("archive/data.pkl", hostile.whole(body), len(hostile.whole(body))),
        ("archive/data/1", hostile.FLOATS, 4 * NUMEL),
        ("archive/data/0", hostile.FLOATS, 24),
    ]
    sparse_zip(folder / "a.ckpt", members, checksums=False)
    tracemalloc.start()
    file = open_source(str(folder / "a.ckpt")).tensors()
    for name in ("small", "last"):
        assert torch.equal(file.read(name), torch.arange(6.0).reshape(2, 3))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_safetensors_file_of_five_gigabytes(folder: Path) -> None:
    header = {
        "big": {"dtype": "F32", "shape": [NUMEL], "data_offsets": [0, 4 * NUMEL]},
        "last": {"dtype": "F32", "shape": [2, 3], "data_offsets": [4 * NUMEL, 4 * NUMEL + 24]},
    }
    text = json.dumps(header).encode()
    with (folder / "a.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.seek(4 * NUMEL, 1)
        file.write(hostile.FLOATS)
    tracemalloc.start()
    opened = open_source(str(folder / "a.safetensors")).tensors()
    assert opened.infos["big"].nbytes == 4 * NUMEL
    assert torch.equal(opened.read("last"), torch.arange(6.0).reshape(2, 3))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_an_old_checkpoint_of_five_gigabytes(folder: Path) -> None:
    body = b"}" + pickles.text("last") + hostile.tensor(offset=NUMEL - 6, numel=NUMEL, legacy=True) + b"s"
    with (folder / "a.pt").open("wb") as file:
        file.write(hostile.legacy(hostile.whole(body), storages=struct.pack("<q", NUMEL)))
        file.seek(4 * NUMEL - 24, 1)
        file.write(hostile.FLOATS)
    opened = open_source(str(folder / "a.pt")).tensors()
    assert torch.equal(opened.read("last"), torch.arange(6.0).reshape(2, 3))
