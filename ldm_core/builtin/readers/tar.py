"""The ``tar`` reader: WebDataset shards from any URL, by random access and without unpacking anything."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_core import storage
from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.tar_index import Part, find_shards, index_shard, packed, unpacked
from ldm_core.contracts import Site
from ldm_core.data.annotations.files import choose
from ldm_core.data.annotations.rows import apply
from ldm_core.data.records.dataset import RecordDataset
from ldm_core.data.records.folder_layout import LeftOut
from ldm_core.data.records.sources import PICTURES
from ldm_core.data.records.store import Sample
from ldm_core.errors import DataError, StorageError
from ldm_core.storage.failures import reason
from ldm_core.storage.local import open_handle

_PICTURES = frozenset(PICTURES)
_OPEN = 32  # shards that are open at once, each process


class TarDataset(RecordDataset):
    """Samples of WebDataset tars; see :class:`ldm_core.data.records.dataset.RecordDataset`."""

    def __init__(self, config: TarConfig, site: Site) -> None:
        super().__init__(config, site, TarStore(config, site))


class TarStore:
    """The index of the shards' members, and their bytes on demand.

    Local shards are read by position, remote ones too where ``data.cache`` keeps a copy. Otherwise remote ones are kept
    in memory, each process its own, as long as all fit ``keep_bytes``; past that, members are fetched by range.
    """

    def __init__(self, config: TarConfig, site: Site) -> None:
        self.title = storage.shown(config.url)
        self._keep = config.keep_bytes
        self._cache = site.cache
        self._hash = ""
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._open: OrderedDict[int, int] = OrderedDict()
        chosen, passed = find_shards(config.url, config.split)
        self.left_out = LeftOut()
        if passed:
            few = ", ".join(map(storage.base_name, passed[:3]))
            self.left_out.add("tars whose names hold no split", few, len(passed))
        self.shards = [storage.info(url) for url in chosen]
        self._folder = storage.parent(self.shards[0].url)
        self.samples: list[Sample] = []
        for number, shard in enumerate(self.shards):
            self.samples += self._index(number, shard)
        if not self.samples:
            raise DataError(f"{self.title}: the tar holds no files; expected pictures with their annotations")
        self.class_names: Mapping[str, tuple[str, ...]] = {}
        self._boxes = ""
        if config.annotations:
            self._annotate(config, site)
        self._count_further_pictures({text.lower().lstrip(".") for text in config.read.values()})

    def _annotate(self, config: TarConfig, site: Site) -> None:
        """Give the samples their boxes, from annotation files beside the tars or elsewhere."""
        paths = [next((f"{s.name}.{e}" for e in PICTURES if e in s.parts), s.name) for s in self.samples]
        tree = {storage.base_name(file.url): file for file in storage.list_files(self._folder)}
        chosen = choose(config.annotations, tree, self._folder, paths, config.split, site)
        found = apply(chosen, self, config, paths)
        self.samples, self._boxes = found.samples, found.digest
        self.class_names = {"box_labels": found.class_names} if found.class_names else {}

    def _count_further_pictures(self, used: set[str]) -> None:
        """One picture of a sample is read, unless `used` names others."""
        for sample in self.samples:
            if len(found := sample.parts.keys() & _PICTURES) > 1:
                first = min(found, key=PICTURES.index)
                for extension in sorted(found - used - {first}):
                    self.left_out.add("picture of a name that another one has", f"{sample.name}.{extension}")

    # ------------------------------------------------------------------------------------------- the index

    def _index(self, number: int, shard: storage.FileInfo) -> list[Sample]:
        """The samples of a shard; an index that was made before is taken where the cache has it."""
        key = ("tar index 2", storage.shown(shard.url), shard.size, shard.mark, _changed(shard.url))
        if self._cache is not None and (known := self._cache.recall(*key)) is not None:
            return unpacked(known, number)
        samples = self._read_index(number, shard)
        if self._cache is not None:
            self._cache.remember(packed(samples), *key)
        return samples

    def _read_index(self, number: int, shard: storage.FileInfo) -> list[Sample]:
        if (handle := self._handle(number)) is not None:
            with os.fdopen(os.dup(handle), "rb") as local:
                local.seek(0)
                return index_shard(local, shard.size, number, shard.url)
        if shard.size <= self._keep:
            return index_shard(io.BytesIO(self._whole(number)), shard.size, number, shard.url)
        with storage.open_read(shard.url) as file:
            return index_shard(file, shard.size, number, shard.url)

    # ------------------------------------------------------------------------------------------- the bytes

    def _local(self, number: int) -> Path | None:
        """The shard or its copy on this machine; None where there is none."""
        shard = self.shards[number]
        path = storage.local_path(shard.url)
        return self._cache.copy(shard) if path is None and self._cache is not None else path

    def _handle(self, number: int) -> int | None:
        """A file descriptor of the shard or its copy. Reading by position shares no state, not even after a fork."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        for _ in range(8):
            path = self._local(number)
            if path is None:
                return None
            try:
                handle = open_handle(path)
            except OSError as error:
                remote = storage.local_path(self.shards[number].url) is None
                if remote and isinstance(error, FileNotFoundError):
                    continue  # another process made room just now
                raise StorageError(f"cannot read {path}: {reason(error, str(path))}") from error
            self._open[number] = handle
            while len(self._open) > _OPEN:
                os.close(self._open.popitem(last=False)[1])
            return handle
        where = storage.shown(self.shards[number].url)
        raise StorageError(f"cannot keep {where} in data.cache; raise data.cache_bytes")

    def _whole(self, number: int) -> bytes:
        if number not in self._kept:
            self._kept[number] = storage.read_bytes(self.shards[number].url)
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._keep:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def size(self, sample: Sample, extension: str) -> int:
        """The number of bytes of one member."""
        part: Part = sample.parts[extension]
        return part.size

    def called(self, sample: Sample, extension: str) -> str:
        """The name of one member, for messages."""
        return f"{sample.name}.{extension}"

    def fetch(self, sample: Sample, extension: str, most: int | None = None) -> bytes:
        """The bytes of one member, or its first `most`; DataError if the shard has shrunk since it was indexed."""
        part: Part = sample.parts[extension]
        shard = self.shards[part.shard]
        size = part.size if most is None else min(most, part.size)
        handle = self._handle(part.shard)
        if handle is not None:
            data = os.pread(handle, size, part.offset)
        elif sum(each.size for each in self.shards) <= self._keep:
            # All remote shards in memory or none: a cache that keeps missing would fetch whole shards each time.
            data = self._whole(part.shard)[part.offset : part.offset + size]
        else:
            data = storage.read_bytes(shard.url, part.offset, part.offset + size)
        if len(data) != size:
            raise DataError(f"{storage.shown(shard.url)}: changed while it was read; start again")
        return data

    def fetch_many(self, wanted: Sequence[tuple[Sample, str]]) -> Iterable[bytes]:
        """The bytes of many members, in order."""
        return (self.fetch(sample, extension) for sample, extension in wanted)

    def beside(self, name: str) -> bytes | None:
        """A file in the folder of the shards."""
        url = storage.join(self._folder, name)
        return storage.read_bytes(url) if storage.exists(url) else None

    def notes(self) -> str:
        """Unread files of the tars."""
        return self.left_out.text()

    def digest(self, former: bool = False) -> str:
        """Hash of shard names, sizes, etags and of all member names and places."""
        if not self._hash:
            self._hash = self._digest()
        return self._hash

    def _digest(self) -> str:
        state = hashlib.sha256()
        for shard in self.shards:
            state.update(f"{storage.base_name(shard.url)}\0{shard.size}\0{shard.mark}\n".encode())
        for sample in self.samples:
            state.update(sample.name.encode("utf-8", "surrogateescape"))
            for extension, part in sorted(sample.parts.items()):
                state.update(f"\0{extension}\0{part.shard}\0{part.offset}\0{part.size}".encode())
            state.update(b"\n")
        state.update(self._boxes.encode())
        return state.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_open": OrderedDict()}

    def __del__(self) -> None:
        for handle in getattr(self, "_open", {}).values():
            os.close(handle)


def _changed(url: str) -> int:
    """The time of a local file's change, in nanoseconds; storage elsewhere has marks."""
    path = storage.local_path(url)
    return 0 if path is None else path.stat().st_mtime_ns
