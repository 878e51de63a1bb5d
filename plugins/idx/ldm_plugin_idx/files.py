"""IDX files as arrays: the header is held against the content before memory is taken."""

from __future__ import annotations

import gzip
import io
import math
import zlib

import numpy as np
from numpy.typing import NDArray

from ldm_core import storage
from ldm_core.errors import DataError, clean

MOST = 1 << 31
"""Bytes of a file, as stored and unpacked."""
_BYTES = 0x08
_KINDS = {0x08: "bytes", 0x09: "signed bytes", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


def read_idx(url: str, axes: int) -> NDArray[np.uint8]:
    """The bytes of an IDX file of so many axes. DataError naming the file for anything else, or damage."""
    shown = storage.shown(url)
    data = storage.read_bytes(url, most=MOST)
    stream: io.BufferedIOBase = io.BytesIO(data)
    if data[:2] == b"\x1f\x8b":
        stream = gzip.GzipFile(fileobj=io.BytesIO(data))
    try:
        shape = _shape(stream, axes, shown)
        content = stream.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{shown}: damaged or cut short ({clean(error, 120)}); copy it again") from error
    if len(content) != math.prod(shape):
        more = "more" if len(content) > math.prod(shape) else f"{len(content):,}"
        raise DataError(
            f"{shown}: its header says {' x '.join(map(str, shape))} bytes, and there are {more}; copy it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _shape(stream: io.BufferedIOBase, axes: int, shown: str) -> tuple[int, ...]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _KINDS:
        raise DataError(f"{shown}: is no IDX file (it begins with {magic!r})")
    if magic[2] != _BYTES or magic[3] != axes:
        raise DataError(
            f"{shown}: holds {_KINDS[magic[2]]} of {magic[3]} axes, and {axes} axes of bytes were expected "
            f"({'pictures' if axes == 3 else 'labels'})"
        )
    head = stream.read(4 * axes)
    shape = tuple(int.from_bytes(head[i : i + 4], "big") for i in range(0, len(head), 4))
    if len(head) != 4 * axes or not all(shape):
        raise DataError(f"{shown}: its header is cut short, or says a size of 0; copy it again")
    if math.prod(shape) > MOST:
        raise DataError(f"{shown}: its header says {math.prod(shape):,} bytes, at most {MOST:,} are read")
    return shape
