"""The ``tar`` reader: WebDataset shards from any URL, by random access and without unpacking anything."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import IO, Any, cast

import attrs

from ldm_core import storage
from ldm_core.builtin.reading import RecordDataset, Sample
from ldm_core.builtin.tar_config import TarConfig
from ldm_core.contracts import Site
from ldm_core.errors import DataError, StorageError

_SPLIT_WORDS = ("train", "val", "valid", "validation", "test", "dev")
_BLOCK = 512


@attrs.frozen(slots=True)
class Part:
    """Where a member's bytes are: number of the shard, offset and size in it."""

    shard: int
    offset: int
    size: int


class TarDataset(RecordDataset):
    """Samples of WebDataset tars; see :class:`ldm_core.builtin.reading.RecordDataset`."""

    def __init__(self, config: TarConfig, site: Site) -> None:
        super().__init__(config, site, TarStore(config))


class TarStore:
    """The index of the shards' members, and their bytes on demand.

    Local shards are read by seeking. Remote ones are kept in memory, each process its own, as long as all fit
    ``keep_bytes``; past that, members are fetched by range.
    """

    def __init__(self, config: TarConfig) -> None:
        self.title = storage.shown(config.url)
        self._keep = config.keep_bytes
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.shards = [storage.info(url) for url in find_shards(config.url, config.split)]
        self._folder = storage.parent(self.shards[0].url)
        self.samples: list[Sample] = []
        for number, shard in enumerate(self.shards):
            self.samples += self._read_index(number, shard)
        if not self.samples:
            raise DataError(f"{self.title}: the tar holds no files; expected pictures with their annotations")

    def _read_index(self, number: int, shard: storage.FileInfo) -> list[Sample]:
        if storage.local_path(shard.url) is None and shard.size <= self._keep:
            return list(index_shard(io.BytesIO(self._whole(number)), shard.size, number, shard.url))
        with storage.open_read(shard.url) as file:
            return list(index_shard(file, shard.size, number, shard.url))

    def _whole(self, number: int) -> bytes:
        if number not in self._kept:
            self._kept[number] = storage.read_bytes(self.shards[number].url)
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._keep:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def fetch(self, sample: Sample, extension: str) -> bytes:
        """The bytes of one member; DataError if the shard has shrunk since it was indexed."""
        part: Part = sample.parts[extension]
        shard = self.shards[part.shard]
        remote = storage.local_path(shard.url) is None
        # All remote shards in memory or none: a cache that keeps missing would fetch whole shards each time.
        if remote and sum(each.size for each in self.shards) <= self._keep:
            data = self._whole(part.shard)[part.offset : part.offset + part.size]
        else:
            data = storage.read_bytes(shard.url, part.offset, part.offset + part.size)
        if len(data) != part.size:
            raise DataError(f"{storage.shown(shard.url)}: changed while it was read; start again")
        return data

    def fetch_many(self, wanted: Sequence[tuple[Sample, str]]) -> Iterable[bytes]:
        """The bytes of many members, in order."""
        handles: dict[int, IO[bytes]] = {}
        try:
            for sample, extension in wanted:
                part: Part = sample.parts[extension]
                path = storage.local_path(self.shards[part.shard].url)
                if path is None:
                    yield self.fetch(sample, extension)
                    continue
                if part.shard not in handles:
                    for handle in handles.values():
                        handle.close()
                    handles = {part.shard: path.open("rb")}
                handles[part.shard].seek(part.offset)
                yield handles[part.shard].read(part.size)
        finally:
            for handle in handles.values():
                handle.close()

    def beside(self, name: str) -> bytes | None:
        """A file in the folder of the shards."""
        url = storage.join(self._folder, name)
        return storage.read_bytes(url) if storage.exists(url) else None

    def digest(self) -> str:
        """Hash of shard names, sizes, etags and of all member names and places."""
        state = hashlib.sha256()
        for shard in self.shards:
            state.update(f"{storage.base_name(shard.url)}\0{shard.size}\0{shard.mark}\n".encode())
        for sample in self.samples:
            state.update(sample.name.encode("utf-8", "surrogateescape"))
            for extension, part in sorted(sample.parts.items()):
                state.update(f"\0{extension}\0{part.shard}\0{part.offset}\0{part.size}".encode())
            state.update(b"\n")
        return state.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}


def find_shards(url: str, split: str) -> list[str]:
    """The shards that ``url`` (a tar, a pattern, a folder) stands for, of ``split`` where names say it."""
    found: list[str] = []
    for each in storage.expand(url):
        if each.lower().endswith(".tar"):
            found.append(each)
        elif re.search(r"\.(tgz|tar\.\w+)$", each.lower()):
            raise DataError(f"{storage.shown(each)}: a compressed tar; decompress it first")
        else:
            found += [entry.url for entry in _listed(each) if entry.url.lower().endswith(".tar")]
    if not found:
        seen = _seen(url)
        raise DataError(f"{storage.shown(url)}: no shards; looked for *.tar, found {seen}; check the URL")
    splits = [split_of(shard) for shard in found]
    if not any(splits):
        if split != "train":
            raise DataError(f"{storage.shown(url)}: no split '{split}'; no shard's name holds a split")
        return found
    chosen = [shard for shard, its in zip(found, splits, strict=True) if its == split]
    if not chosen:
        others = ", ".join(sorted(set(splits) - {""}))
        raise DataError(f"{storage.shown(url)}: no shards of the split '{split}'; found {others}")
    return chosen


def split_of(url: str) -> str:
    """``val`` of ``.../emoji-val-000000.tar``; empty where the name holds no split word."""
    words = re.split(r"[-_.]", storage.base_name(url).lower())
    return next((word for word in words if word in _SPLIT_WORDS), "")


def _listed(url: str) -> list[storage.FileInfo]:
    try:
        return storage.list_files(url)
    except StorageError as error:
        raise DataError(f"no data: {error}") from error


def _seen(url: str) -> str:
    path = storage.local_path(url)
    if (path is not None and not path.is_dir()) or any(sign in url for sign in "*{["):
        return "none by that name"
    names = [storage.base_name(entry.url) for entry in _listed(url)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more or "an empty folder"


def index_shard(file: IO[bytes], size: int, number: int, url: str) -> Iterable[Sample]:
    """The samples of one shard, in its order. DataError where it is cut off, damaged or unsafe."""
    where = storage.shown(url)
    groups: dict[str, dict[str, Part]] = {}
    try:
        with tarfile.open(fileobj=cast(Any, file), mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                _check_member(member, where)
                name, extension = split_name(member.name)
                if not extension:
                    continue
                parts = groups.setdefault(name, {})
                if extension in parts:
                    raise DataError(f"{where}: '{member.name}' is there twice; build the shard again")
                if member.offset_data + member.size > size:
                    raise DataError(_cut_off(where, size, member.name))
                parts[extension] = Part(number, member.offset_data, member.size)
            end = archive.offset
    except tarfile.TarError as error:
        if size == 0 or "unexpected end" in str(error) or "truncated" in str(error):
            raise DataError(_cut_off(where, size, "")) from error
        raise DataError(f"{where}: not a plain tar file ({error}); build it again") from error
    # tarfile takes a damaged or missing header for the end; the end is a block of zeros.
    file.seek(end)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise DataError(_cut_off(where, size, ""))
    if block.strip(b"\0"):
        raise DataError(f"{where}: damaged at byte {end}; download it again")
    return [Sample(name, parts) for name, parts in groups.items()]


def _check_member(member: tarfile.TarInfo, where: str) -> None:
    name = member.name
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name:
        raise DataError(f"{where}: refused: member '{name}' points outside the tar; rename it")
    if not member.isreg():
        raise DataError(f"{where}: refused: member '{name}' is a link or a device; store files")


def _cut_off(where: str, size: int, name: str) -> str:
    at = f" inside '{name}'" if name else ""
    return f"{where}: the tar is cut off{at} ({size:,} bytes are there); download or build it again"


def split_name(name: str) -> tuple[str, str]:
    """``dir/a.seg.png`` -> (``dir/a``, ``seg.png``): a sample's name ends at the last part's first dot."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower() if stem else ""
