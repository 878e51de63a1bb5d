"""Rows of metrics in files: a file for each block of places, written whole or not at all, mapped into memory when read.

A block's file is a NumPy array of records, one a picture, with a field for each of the metric's arrays.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core import storage
from ldm_core.config.structure import digest
from ldm_core.contracts import Rows
from ldm_core.errors import DataError, LDMError

BLOCK = 64
"""Pictures of a file. The same for any number of processes, and so are the bits of sums over them."""
FORMAT = 1
_IN_MEMORY = 64 << 20  # bytes of rows that are read into memory as a whole; larger ones lie in a file


def key_of(pictures: Mapping[str, Any], source: str) -> str:
    """The name of the rows of the pictures with this key, by this source."""
    return digest({"format": FORMAT, "block": BLOCK, "pictures": dict(pictures), "source": source})[:24]


class RowStore:
    """The rows of `count` pictures in a folder (path or URL), by block."""

    def __init__(self, folder: str, count: int) -> None:
        self.folder, self.count = folder, count
        self._there: set[str] | None = None
        self._kind: np.dtype[Any] | None = None
        self._kept: Any = None

    def __len__(self) -> int:
        return self.count

    @property
    def blocks(self) -> list[range]:
        """The places of each block."""
        return [range(i, min(i + BLOCK, self.count)) for i in range(0, self.count, BLOCK)]

    def has(self, places: range) -> bool:
        """True if the block is there, as far as was known when the first one was asked for; damaged ones are not."""
        if self._there is None:
            found = storage.list_files(self.folder) if storage.is_folder(self.folder) else []
            self._there = {storage.base_name(file.url) for file in found}
        if _name(places) not in self._there:
            return False
        try:
            self._records(places)
        except LDMError:
            return False
        return True

    def write(self, places: range, rows: Rows) -> None:
        """Write a block."""
        kind = np.dtype([(name, rows[name].dtype, rows[name].shape[1:]) for name in sorted(rows)])
        records = np.empty(len(places), kind)
        for name in rows:
            records[name] = rows[name]
        buffer = io.BytesIO()
        np.save(buffer, records, allow_pickle=False)
        storage.atomic_write(self._url(places), buffer.getvalue())
        if self._there is not None:
            self._there.add(_name(places))

    def __iter__(self) -> Iterator[tuple[range, dict[str, NDArray[Any]]]]:
        """The blocks in order; DataError if one is missing or unlike the others."""
        for places in self.blocks:
            records = self._records(places)
            if self._kind is None:
                self._kind = records.dtype
            if records.dtype != self._kind:
                raise DataError(
                    f"{storage.shown(self._url(places))}: holds {records.dtype} and the blocks before it {self._kind}; "
                    "remove its folder, and its rows are made anew"
                )
            yield places, {name: records[name] for name in records.dtype.names or ()}

    def whole(self) -> dict[str, NDArray[Any]]:
        """All rows in order; large ones in a file without a name, gone with the last reader."""
        if self._kept is None:
            blocks = [self._records(places) for places in self.blocks]
            kind = blocks[0].dtype
            if any(block.dtype != kind for block in blocks):
                raise DataError(f"{storage.shown(self.folder)}: its blocks differ; remove it, and they are made anew")
            if self.count * kind.itemsize <= _IN_MEMORY:
                records = np.empty(self.count, kind)
            else:
                with tempfile.NamedTemporaryFile(prefix="ldm-rows-") as file:
                    os.truncate(file.name, self.count * kind.itemsize)
                    records = np.memmap(file.name, kind, "r+", shape=(self.count,))
            for places, block in zip(self.blocks, blocks, strict=True):
                records[places.start : places.stop] = block
            self._kept = records
        return {name: self._kept[name] for name in self._kept.dtype.names}

    def _records(self, places: range) -> NDArray[Any]:
        url = self._url(places)
        path = storage.local_path(url)
        try:
            if path is not None:
                records = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                records = np.load(io.BytesIO(storage.read_bytes(url)), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{storage.shown(url)}: rows that do not read ({error}); remove it, and run again"
            ) from None
        if records.shape != (len(places),) or not records.dtype.names or records.dtype.hasobject:
            raise DataError(f"{storage.shown(url)}: no rows of {len(places)} pictures; remove it, and run again")
        return records

    def _url(self, places: range) -> str:
        return storage.join(self.folder, _name(places))


def _name(places: range) -> str:
    return f"rows-{places.start:08d}-{places.stop:08d}.npy"
