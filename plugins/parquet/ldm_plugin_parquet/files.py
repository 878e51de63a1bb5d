"""Parquet files by path or URL: found by split, opened once a process, read by row group within a bound of memory."""

from __future__ import annotations

import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.parquet as pq

from ldm_core import storage
from ldm_core.contracts.site import FileCache
from ldm_core.errors import DataError, LDMError, NoSplit, clean
from ldm_core.storage.local import open_file
from ldm_plugin_parquet.config import SUFFIX

_SPLITS = ("train", "val", "valid", "validation", "dev", "test")
_MEANS: Mapping[str, tuple[tuple[str, ...], ...]] = {"val": (("validation", "valid", "dev"), ("test",))}
"""A split -> other names for it, the closest first."""
_OPEN = 16  # files that are open at once, each process
_BATCH = 8 << 20  # bytes of a piece that is decoded at a time, about
_MOST_FOOTER = 1 << 30
_MOST_ROWS = 1 << 32


@attrs.frozen
class Shard:
    """One file: its place, its name in the data, the rows of each of its row groups, and a hash of its footer."""

    file: storage.FileInfo
    name: str
    groups: tuple[int, ...]
    footer: str

    @property
    def rows(self) -> int:
        """All its rows."""
        return sum(self.groups)


def find(url: str, split: str) -> list[tuple[storage.FileInfo, str]]:
    """The files of `url` (one, a pattern, a folder) and `split`, with their names in it. DataError for none, NoSplit
    if there are other splits alone."""
    shown = storage.shown(url)
    found: dict[str, tuple[storage.FileInfo, str]] = {}
    for root in storage.expand(url):
        if root.lower().endswith(SUFFIX) and not storage.is_folder(root):
            found[root] = storage.info(root), storage.base_name(root)
            continue
        top = f"{root.rstrip('/')}/"
        for file in storage.list_files(root, recursive=True):
            if file.url.lower().endswith(SUFFIX) and not file.irregular:
                found[file.url] = file, _inside(file.url, top)
    if not found:
        raise DataError(f"{shown}: no files called *{SUFFIX}; check the URL")
    splits = {place: _split_of(name) for place, (_, name) in found.items()}
    if not any(splits.values()):
        if split != "train":
            raise NoSplit(f"{shown}: no split '{clean(split, 60)}'; no file's name holds a split")
        return [found[place] for place in sorted(found)]
    for named in ((split,), *_MEANS.get(split, ())):
        chosen = [found[place] for place in sorted(found) if splits[place] in named]
        if chosen:
            return chosen
    others = ", ".join(sorted(set(splits.values()) - {""}))
    raise NoSplit(f"{shown}: no files of the split '{clean(split, 60)}'; found {others}")


def _inside(url: str, top: str) -> str:
    """The name of a file under a folder; listings may spell the folder in another way."""
    return url.removeprefix(top) if url.startswith(top) else storage.base_name(url)


def _split_of(name: str) -> str:
    """``train`` of ``train-00000-of-00002.parquet`` and of ``default/train/0000.parquet``; "" for none."""
    *folders, last = name.lower().split("/")
    words = re.split(r"[-_.]", last)
    return next((w for w in words if w in _SPLITS), next((f for f in reversed(folders) if f in _SPLITS), ""))


class Files:
    """The opened files of one data set: cells by shard, row group and row.

    Row groups stay in memory up to `keep` bytes, each process its own; the least recently used make
    room. A larger one is read up to the asked row, and not kept.
    """

    def __init__(self, found: Sequence[tuple[storage.FileInfo, str]], keep: int, cache: FileCache | None) -> None:
        self._keep, self._cache = keep, cache
        self._places = [file for file, _ in found]
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._kept: OrderedDict[tuple[int, int, str], list[pa.Array]] = OrderedDict()
        self._bytes = 0
        self.shards = [self._indexed(number, file, name) for number, (file, name) in enumerate(found)]
        if sum(shard.rows for shard in self.shards) > _MOST_ROWS:
            raise DataError(f"{storage.shown(found[0][0].url)}: says more than {_MOST_ROWS:,} rows; it is damaged")

    def _indexed(self, number: int, file: storage.FileInfo, name: str) -> Shard:
        meta = self.file(number).metadata
        groups = tuple(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
        if any(rows < 0 for rows in groups) or sum(groups) != meta.num_rows:
            raise DataError(f"{storage.shown(file.url)}: its footer contradicts itself; write the file anew")
        return Shard(file, name.removesuffix(SUFFIX), groups, self._footer(file))

    def _footer(self, file: storage.FileInfo) -> str:
        """A hash of the footer: places, sizes and, of most writers, the span of all values."""
        tail = storage.read_bytes(file.url, max(0, file.size - 8), file.size)
        length = int.from_bytes(tail[:4], "little")
        footer = storage.read_bytes(file.url, max(0, file.size - 8 - length), file.size, most=_MOST_FOOTER)
        return hashlib.sha256(footer).hexdigest()

    def schema(self, number: int) -> pa.Schema:
        """The columns of a file, as Arrow has them."""
        return self.file(number).schema_arrow

    def file(self, number: int) -> pq.ParquetFile:
        """The opened file. DataError for another format, or damage."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        place = self._places[number]
        try:
            opened = pq.ParquetFile(_Ranges.of(place, self._cache), page_checksum_verification=True, pre_buffer=False)
        except LDMError:
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise DataError(
                f"{storage.shown(place.url)}: is no Parquet file, or damaged ({_reason(error)}); copy it again"
            ) from error
        self._open[number] = opened
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)[1].close(force=True)
        return opened

    def nulls(self, number: int, leaf: str) -> int | None:
        """The rows of a file without a value in a stored column, as its statistics say; None if they do not."""
        meta, total = self.file(number).metadata, 0
        for i in range(meta.num_row_groups):
            group = meta.row_group(i)
            column = next((c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == leaf), None)
            if column is None or column.statistics is None or not column.statistics.has_null_count:
                return None
            total += column.statistics.null_count
        return total

    def group_bytes(self, number: int, column: str) -> int:
        """Bytes of the largest row group of a column, unpacked, as the footer says."""
        meta = self.file(number).metadata
        return max((self._said(meta.row_group(i), column) for i in range(meta.num_row_groups)), default=0)

    @staticmethod
    def _said(group: Any, column: str) -> int:
        inside = (column, f"{column}.")
        own = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column
               or c.path_in_schema.startswith(inside[1]))  # fmt: skip
        return sum(max(0, c.total_uncompressed_size) for c in own)

    def cells(self, number: int, column: str) -> Iterator[pa.Array]:
        """The cells of a column in all row groups of a file, piece by piece; nothing is kept."""
        for group in range(len(self.shards[number].groups)):
            yield from self._pieces(number, group, column)

    def cell(self, number: int, group: int, row: int, column: str) -> Any:
        """One cell as Python has it. DataError if its row group does not read."""
        key = (number, group, column)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return _at(kept, row)
        pieces: list[pa.Array] = []
        before = size = 0
        found: Any = None
        for piece in self._pieces(number, group, column):
            if before <= row < before + len(piece):
                found = piece[row - before].as_py()
            before, size = before + len(piece), size + piece.nbytes
            if size <= self._keep:
                pieces.append(piece)
            elif before > row:
                return found  # too large to be kept, and the rest of it is not needed
            else:
                pieces.clear()
        if row >= before:
            raise DataError("its row group ends before it")
        if size <= self._keep:
            self._remember(key, pieces, size)
        return found

    def _remember(self, key: tuple[int, int, str], pieces: list[pa.Array], size: int) -> None:
        self._kept[key] = pieces
        self._bytes += size
        while self._bytes > self._keep and len(self._kept) > 1:
            self._bytes -= sum(each.nbytes for each in self._kept.popitem(last=False)[1])

    def _pieces(self, number: int, group: int, column: str) -> Iterator[pa.Array]:
        """The cells of a row group, a bounded number at a time."""
        file = self.file(number)
        try:
            meta = file.metadata.row_group(group)
            each = self._said(meta, column) // max(1, meta.num_rows)
            batch = max(1, min(4096, _BATCH // max(1, each)))
            for piece in file.iter_batches(batch, row_groups=[group], columns=[column], use_threads=False):
                if piece.num_columns != 1:
                    raise DataError(f"has no column '{clean(column, 60)}'")
                yield piece.column(0)
        except LDMError:
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise DataError(f"its row group does not read ({_reason(error)}); write or copy the file again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_kept": OrderedDict(), "_bytes": 0}


def _at(pieces: Sequence[pa.Array], row: int) -> Any:
    for piece in pieces:
        if row < len(piece):
            return piece[row].as_py()
        row -= len(piece)
    raise DataError("its row group ends before it")


def _reason(error: BaseException) -> str:
    return clean((str(error).strip() or type(error).__name__).splitlines()[0], 120)


class _Ranges(io.RawIOBase):
    """A remote file by position, each read a request; nothing is open between them."""

    def __init__(self, file: storage.FileInfo) -> None:
        self._file, self._at = file, 0

    @staticmethod
    def of(file: storage.FileInfo, cache: FileCache | None) -> Any:
        """The local file or copy; else the remote one."""
        path = storage.local_path(file.url)
        if path is None and cache is not None:
            path = cache.copy(file)
        return _Ranges(file) if path is None else open_file(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._file.size if size is None or size < 0 else min(self._at + size, self._file.size)
        if stop <= self._at:
            return b""
        data = storage.read_bytes(self._file.url, self._at, stop)
        self._at += len(data)
        return data
