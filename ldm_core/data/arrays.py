"""Arrays of numbers from NumPy's ``.npy`` files, read without pickle and held to their size. Imports numpy alone.

The header is a Python literal, which is parsed as one and never evaluated; an array is made once its bytes are there.
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.errors import DataError

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 4096  # the writer's own has 118 characters; nothing longer is parsed
_MOST_NUMBERS = 1 << 48
_NUMBERS = re.compile(r"[<>|=]?[biuf][1248]\Z")
_KEYS = {"descr", "fortran_order", "shape"}


@attrs.frozen
class NpyHeader:
    """The header of a file: `dtype`, `shape`, order of the axes, and the offset of the numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(data: bytes, where: str) -> NpyHeader:
    """The header at the beginning of `data`, which may end behind it.

    Raises DataError naming `where`: no ``.npy`` file, a damaged header, or an array of something else than numbers.
    """
    if data[:6] != _MAGIC:
        raise DataError(f"{where}: no array in NumPy's format (.npy); write it with numpy.save")
    width = 2 if data[6:7] == b"\x01" else 4
    offset = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if data[6:7] not in (b"\x01", b"\x02", b"\x03") or len(data) < 8 + width or offset > _LONGEST_HEADER:
        raise DataError(f"{where}: a damaged .npy header; write it again with numpy.save")
    if len(data) < offset:
        raise DataError(f"{where}: cut off in its header ({len(data)} bytes are there); copy it again")
    try:
        header = ast.literal_eval(data[8 + width : offset].decode("utf-8").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        header = None
    if not isinstance(header, dict) or header.keys() != _KEYS or type(header["fortran_order"]) is not bool:
        raise DataError(f"{where}: a damaged .npy header; write it again with numpy.save")
    kind, shape = header["descr"], header["shape"]
    if not isinstance(kind, str) or not _NUMBERS.match(kind) or kind[-2:] in ("f1", "b2", "b4", "b8"):
        raise DataError(
            f"{where}: holds {str(kind)[:40]!r} and not plain numbers; arrays of objects or records are not read"
        )
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise DataError(f"{where}: a damaged .npy header; write it again with numpy.save")
    if 0 in shape and math.prod(n or 1 for n in shape) > _MOST_NUMBERS:  # else the length of the file tells
        raise DataError(f"{where}: its header says more numbers than any file holds; write it again with numpy.save")
    return NpyHeader(np.dtype(kind), shape, header["fortran_order"], offset)


def read_npy(data: bytes, where: str) -> NDArray[Any]:
    """The array of a whole file: native byte order, C order, writable, all numbers finite.

    Raises DataError naming `where`: what :func:`read_header` refuses, a file that is longer or shorter than its header
    says, or a number that is not finite.
    """
    header = read_header(data, where)
    there = len(data) - header.offset
    if there != header.nbytes:
        raise DataError(
            f"{where}: its header says {'x'.join(map(str, header.shape)) or 'one number'} of {header.dtype}, "
            f"{header.nbytes:,} bytes, and {there:,} are there; copy it again"
        )
    flat = np.frombuffer(data, header.dtype, offset=header.offset)
    array = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
    array = np.array(array, dtype=header.dtype.newbyteorder("="), order="C")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where}: holds numbers that are not finite; drop such examples")
    return array
