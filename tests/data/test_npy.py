"""Arrays from .npy files: what numpy writes comes back; what is broken, hostile or no number is refused unread."""

from __future__ import annotations

import io
import pickle
import random
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_core.data.arrays import read_header, read_npy
from ldm_core.errors import DataError


def saved(array: Any, **settings: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **settings)
    return file.getvalue()


def written(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header.encode("latin1") + body


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4", ">f8", "<i8", ">i2", "|u1", "|i1", "|b1"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (0, 7)])
def test_what_numpy_writes_comes_back(kind: str, shape: tuple[int, ...]) -> None:
    array = (np.random.default_rng(0).normal(size=shape) * 9).astype(kind)
    for each in (array, np.array(array, order="F")):
        found = read_npy(saved(each), "x")
        assert found.dtype == array.dtype.newbyteorder("=") and found.shape == shape
        assert np.array_equal(found, array) and found.flags.c_contiguous and found.flags.writeable
    assert read_header(saved(array)[:128], "x").shape == shape


def test_all_versions_of_the_format() -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"
    body = np.array([1, 2], np.float32).tobytes()
    for version in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        assert read_npy(written(header, body, version), "x").tolist() == [1, 2]


FLOATS = "'descr': '<f4', 'fortran_order': False"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no array in NumPy's format"),
        (b"\x93NUMPY", "damaged"),
        (b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16, "damaged"),
        (b"PK\x03\x04" + bytes(64), "no array in NumPy's format"),
        (pickle.dumps([1]), "no array in NumPy's format"),
        (written("{" + FLOATS + ", 'shape': (2,)}", bytes(7)), "8 bytes, and 7 are there"),
        (written("{" + FLOATS + f", 'shape': (0, {2**70})}}"), "more numbers than any file holds"),
        (written("{" + FLOATS + f", 'shape': ({2**40}, 0, {2**40})}}"), "more numbers than any file holds"),
        (written("{" + FLOATS + ", 'shape': (2,)}", bytes(9)), "8 bytes, and 9 are there"),
        (written("{" + FLOATS + ", 'shape': (10**9,)}"), "damaged"),
        (written("{" + FLOATS + ", 'shape': (1000000000000, 1000000)}"), "and 0 are there"),
        (written("{" + FLOATS + ", 'shape': (-1,)}"), "damaged"),
        (written("{" + FLOATS + ", 'shape': (True,)}", bytes(4)), "damaged"),
        (written("{" + FLOATS + ", 'shape': [2]}", bytes(8)), "damaged"),
        (written("{" + FLOATS + "}"), "damaged"),
        (written("{" + FLOATS + ", 'shape': (), 'more': 1}"), "damaged"),
        (written("{'descr': '<f4', 'fortran_order': 1, 'shape': ()}"), "damaged"),
        (written("__import__('os').system('true')"), "damaged"),
        (written("(" * 3000), "damaged"),
        (written("{" + " " * 9000), "damaged"),
        (written("{" + FLOATS + ", 'shape': ()}")[:30], "cut off in its header"),
        (written("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps([1])), "'|O' and not plain"),
        (written("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"), "and not plain numbers"),
        (written("{'descr': '<U3', 'fortran_order': False, 'shape': (1,)}"), "'<U3' and not plain"),
        (written("{'descr': '<f1', 'fortran_order': False, 'shape': (1,)}"), "and not plain"),
        (written("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}"), "and not plain"),
        (saved(np.array([1, np.nan], np.float32)), "not finite"),
        (saved(np.array([np.inf], np.float16)), "not finite"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"^here: ") as caught:
            read_npy(data, "here")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # nothing is allocated for what a header claims
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "exploded"), "w"))

    with pytest.raises(DataError, match="arrays of objects or records are not read"):
        read_npy(saved(np.array([Bomb()], dtype=object), allow_pickle=True), "x")
    assert not (tmp_path / "exploded").exists()


def test_damaged_files_are_errors_of_the_user() -> None:
    """Two thousand files with bytes changed or cut off: an array or a DataError, and nothing else."""
    rng = random.Random(0)
    whole = saved(np.arange(12, dtype=np.float32).reshape(3, 4))
    for _ in range(2000):
        data = bytearray(whole[: rng.randint(0, len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randint(0, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        with suppress(DataError):
            assert read_npy(bytes(data), "x").nbytes <= len(whole)
