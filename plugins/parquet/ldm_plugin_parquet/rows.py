"""The rows of all files as one table: columns by purpose, cells by row, gaps. All views of a data set share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core import storage
from ldm_core.contracts.site import FileCache
from ldm_core.data.images import picture_size
from ldm_core.errors import DataError, clean
from ldm_plugin_parquet.columns import Column, columns_of, said_of
from ldm_plugin_parquet.config import ParquetConfig
from ldm_plugin_parquet.files import Files, find
from ldm_plugin_parquet.labels import Labels, highest_in_maps

_LARGE_GROUP = 64 << 20  # bytes of pictures in a row group above which single rows cost too much
_LISTED = 8


class Rows:
    """Cells by key and row. Nothing of a row is kept but its class and, of columns with gaps, whether it has a value;
    row groups are read when a row of theirs is asked for (:class:`~ldm_plugin_parquet.files.Files`)."""

    def __init__(self, config: ParquetConfig, cache: FileCache | None) -> None:
        self.title = storage.shown(config.url)
        self.cache = cache
        self._files = Files(find(config.url, config.split), config.keep_bytes, cache)
        self.columns = self._same_columns(config)
        self._starts = np.cumsum([0, *(shard.rows for shard in self._files.shards)])
        self._groups = [np.cumsum([0, *shard.groups]) for shard in self._files.shards]
        if not len(self):
            raise DataError(f"{self.title}: the files hold no rows")
        self.labels = Labels.read(self._files, self.columns, config, self.title)
        self.have = {key: self._values_there(key) for key in self.columns}
        if not self.count("image"):
            raise DataError(f"{self.title}: no row has the bytes of a picture; names of files alone are not followed")
        if "segmentation" in self.columns and "segmentation" not in self.labels.counts:
            self.labels.counts["segmentation"] = highest_in_maps(self._files, self.columns["segmentation"]) + 1

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _same_columns(self, config: ParquetConfig) -> dict[str, Column]:
        """The columns of the first file, held to those of the others."""
        first: dict[str, Column] = {}
        for number, shard in enumerate(self._files.shards):
            where = f"{self.title}: {shard.name}" if len(self._files.shards) > 1 else self.title
            own = columns_of(self._files.schema(number), config.read, where)
            if number and said_of(own) != said_of(first):
                differ = sorted(key for key in {*own, *first} if own.get(key) != first.get(key))
                raise DataError(
                    f"{where}: has other columns than {self._files.shards[0].name} ({', '.join(differ)}); read them as "
                    "data sets of their own"
                )
            first = first or own
        return first

    def _values_there(self, key: str) -> NDArray[np.bool_] | None:
        """True for each row with a value of `key`; None if all have one, as far as is known unread."""
        if key in self.labels.codes:
            there = self.labels.there
            return None if there.all() else there
        column = self.columns[key]
        parts: list[NDArray[np.bool_]] = [np.ones(0, bool)]
        for number, shard in enumerate(self._files.shards):
            gaps = self._files.nulls(number, column.leaf) if column.leaf else None
            if gaps == 0 or (gaps is None and column.kind == "picture"):
                parts.append(np.ones(shard.rows, bool))
            else:
                parts += [column.filled(piece) for piece in self._files.cells(number, column.read)]
        there = np.concatenate(parts)
        return None if there.all() else there

    def count(self, key: str) -> int:
        """The rows with a value of `key`."""
        there = self.have.get(key)
        return len(self) if there is None else int(there.sum())

    def lacks(self, key: str, row: int) -> bool:
        """True if the row has no value of `key`."""
        there = self.have.get(key)
        return there is not None and not there[row]

    def name(self, row: int) -> str:
        """Name of a row: its file, and its number in it from 0 on."""
        shard = self._shard(row)
        return f"{self._files.shards[shard].name}:{row - int(self._starts[shard])}"

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, "right")) - 1

    def cell(self, key: str, row: int) -> Any:
        """The stored value of a key, or None. DataError if its row group does not read."""
        column, shard = self.columns[key], self._shard(row)
        inside = row - int(self._starts[shard])
        group = int(np.searchsorted(self._groups[shard], inside, "right")) - 1
        return column.value(self._files.cell(shard, group, inside - int(self._groups[shard][group]), column.read))

    def head(self, row: int) -> bytes:
        """The bytes of a row's picture; empty if it does not read."""
        try:
            data = self.cell("image", row)
        except DataError:
            return b""
        return data if isinstance(data, bytes) else b""

    def size(self, row: int) -> tuple[int, int]:
        """(H, W) of a row's picture as its header says, zeros if it is not known."""
        return picture_size(self.head(row)) or (0, 0)

    # -------------------------------------------------------------------------------------------------- words

    def hint(self, key: str) -> str:
        """The names of the columns, and the setting to take one of them for `key`."""
        few = self._few(self._files.schema(0).names)
        return f"columns are {few}; say which holds it, with dataset.read='{{{key}: COLUMN}}'"

    @staticmethod
    def _few(names: list[str]) -> str:
        return ", ".join(clean(name, 40) for name in names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")

    def describe(self, found: Mapping[str, int]) -> str:
        """The place, the rows and files, and the keys, each with the number of its rows."""
        each = ", ".join(key if n == len(self) else f"{key} ({n:,} of {len(self):,})" for key, n in found.items())
        files = len(self._files.shards)
        return f"{self.title}: {len(self):,} rows in {files} file{'s' * (files > 1)} with {each}"

    def remarks(self) -> str:
        """Notes on unread columns, on names of files in place of pictures, and on large row groups."""
        taken = {column.path[0] for column in self.columns.values()}
        unread = [name for name in self._files.schema(0).names if name not in taken]
        out = [f"columns not read: {self._few(unread)}"] if unread else []
        if self.have["image"] is not None and self.columns["image"].leaf.endswith(".bytes"):
            out.append("names of files in the picture's column are not followed")
        size = self._files.group_bytes(0, self.columns["image"].path[0])
        if size > _LARGE_GROUP:
            out.append(f"row groups of {size >> 20} MiB are slow to read by the row; write them with 100 rows each")
        return "; ".join(out)

    def state(self) -> list[object]:
        """The state behind the examples, as plain values: files without their place, columns, names of classes."""
        files = [[s.name, s.rows, s.file.size, s.file.mark, s.footer] for s in self._files.shards]
        return [files, said_of(self.columns), {key: list(names) for key, names in self.labels.names.items()}]
