"""The ``folder`` reader: pictures in folders, with annotations beside them or in a metadata file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ldm_core import storage
from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.contracts import Site
from ldm_core.data.annotations.files import Chosen, choose
from ldm_core.data.annotations.rows import apply
from ldm_core.data.records.dataset import RecordDataset
from ldm_core.data.records.folder_layout import (
    LeftOut,
    count_beside,
    find_split,
    grouped,
    is_picture,
    split_path,
    without_runs,
)
from ldm_core.data.records.folder_metadata import METADATA, Names, Row, merged, read_metadata, read_rows
from ldm_core.data.records.guess import guess_reader
from ldm_core.data.records.sources import FIRST_PICTURES, PICTURES
from ldm_core.data.records.store import Sample
from ldm_core.errors import DataError, StorageError, quoted

__all__ = ["FolderDataset", "FolderStore", "guess_reader", "read_metadata", "split_path"]

_FETCHES_AT_ONCE = 16
_GROWN = 16 << 20  # bytes that a file may have though the folder's list says less


class FolderDataset(RecordDataset):
    """Pictures of a folder; see :class:`ldm_core.data.records.dataset.RecordDataset`."""

    def __init__(self, config: FolderConfig, site: Site) -> None:
        super().__init__(config, site, FolderStore(config, site))


class FolderStore:
    """The files of a folder, grouped by name; bytes on demand. `left_out` counts what is no part of a sample."""

    def __init__(self, config: FolderConfig, site: Site) -> None:
        self.title = storage.shown(config.url)
        self._cache = site.cache
        roots = storage.expand(config.url)
        if len(roots) != 1 or not storage.is_folder(roots[0]):
            what = f"{len(roots)} places" if len(roots) > 1 else "no folder by that name"
            raise DataError(f"{self.title}: expected one folder of pictures, found {what}; check the URL")
        self._root = roots[0]
        files = storage.list_files(self._root, recursive=True)
        self._top = _prefix(self._root)
        self.left_out = LeftOut()
        self._digests: dict[bool, str] = {}
        listed = {file.url.removeprefix(self._top): file for file in files}
        tree = without_runs(listed, self._root, self.left_out)
        self._base = find_split(tree, config.split, self.title, self.left_out)
        chosen = self._chosen(tree, config, site)
        read = frozenset(() if chosen is None else chosen.names)
        tree = {path: file for path, file in tree.items() if path not in read} if read else tree
        rows = self._rows(tree, config)
        used = {*config.read.values(), *config.classes.values()}
        count_beside(tree, self._base, used, self.left_out)
        self.files = {p.removeprefix(self._base): f for p, f in tree.items() if p.startswith(self._base)}
        self.samples, self._others = grouped(self.files, rows, used, self.left_out)
        if not self.samples:
            seen = sorted(self.files)[:5]
            raise DataError(
                f"{self.title}: no pictures; looked for {', '.join('.' + p for p in PICTURES)}, found "
                f"{', '.join(seen) if seen else 'an empty folder'}; "
                + (f"{said}; " if (said := self.left_out.text()) else "")
                + "check the URL"
            )

        self.class_names: Mapping[str, tuple[str, ...]] = {}
        self._boxes = ""
        if chosen is not None:
            self._annotate(chosen, config)

    # ------------------------------------------------------------------------------------------- annotations

    def _chosen(self, tree: Mapping[str, storage.FileInfo], config: FolderConfig, site: Site) -> Chosen | None:
        """The annotation files that the setting names."""
        if not config.annotations:
            return None
        pictures = [path for path in tree if path.startswith(self._base) and is_picture(path)]
        return choose(config.annotations, tree, self._root, pictures, config.split, site)

    def _annotate(self, chosen: Chosen, config: FolderConfig) -> None:
        """Give the samples their boxes."""
        paths = [f"{self._base}{self._picture(sample, config)}" for sample in self.samples]
        found = apply(chosen, self, config, paths, self._root)
        self.samples, self._boxes = found.samples, found.digest
        self.class_names = {"box_labels": found.class_names} if found.class_names else {}

    def _picture(self, sample: Sample, config: FolderConfig) -> str:
        """The path of a sample's picture in the split's folder."""
        own = config.read.get("image", "").lower().lstrip(".")
        extension = next((e for e in (own, *PICTURES) if e in sample.parts), "")
        return self.called(sample, extension).removeprefix(self._base) if extension else sample.name

    # ---------------------------------------------------------------------------------------------- metadata

    def _rows(self, tree: Mapping[str, storage.FileInfo], config: FolderConfig) -> dict[str, Mapping[str, Any]]:
        """The fields of each picture of the split that a metadata file of any folder above it has a row for."""
        files = [path for path in sorted(tree) if path.rpartition("/")[2] in METADATA]
        files = [p for p in files if p.startswith(self._base) or self._base.startswith(p.rpartition("/")[0] + "/")
                 or "/" not in p]  # fmt: skip
        if not files:
            return {}
        roots = dict.fromkeys((self._top, self._root, os.path.realpath(self._root)))
        local = storage.local_path(self._root) is not None
        names = Names(tree, [*roots] if local else [self._top], {p: f.url for p, f in tree.items()} if local else {})
        rows: dict[str, Row] = {}
        for path in files:
            folder, where = path.rpartition("/")[0], storage.shown(tree[path].url)
            for row in read_rows(storage.read_text(tree[path].url), path.rpartition("/")[2], where):
                found = names.find(folder, row.fields["file_name"])
                if found is None:
                    self._miss(row, folder, names, config)
                elif not is_picture(found):
                    self.left_out.add("row of metadata that names no picture", row.fields["file_name"])
                else:
                    known = rows.get(found)
                    rows[found] = row if known is None else merged(known, row, config.read.get("caption", ""))
        mine = {p.removeprefix(self._base): row.fields for p, row in rows.items() if p.startswith(self._base)}
        return mine

    def _miss(self, row: Row, folder: str, names: Names, config: FolderConfig) -> None:
        """A row whose picture is not there."""
        name = row.fields["file_name"]
        if config.missing == "skip":
            self.left_out.add("row of metadata whose picture is not there", name)
            return
        raise DataError(
            f"{row.place}: {quoted(name, 200)} is not there{names.like(folder, name) or '.'} Correct the name, which "
            "is looked for in the folder of the metadata file, or pass over such rows with dataset.missing=skip"
        )

    # ------------------------------------------------------------------------------------------------- bytes

    def size(self, sample: Sample, extension: str) -> int:
        """The number of bytes of one file."""
        file: storage.FileInfo = sample.parts[extension]
        return file.size

    def called(self, sample: Sample, extension: str) -> str:
        """The path of one file inside the folder, for messages."""
        file: storage.FileInfo = sample.parts[extension]
        return file.url.removeprefix(self._top)

    def fetch(self, sample: Sample, extension: str, most: int | None = None) -> bytes:
        """The bytes of one file, or its first `most`. DataError for a local file that does not open: one of many."""
        file: storage.FileInfo = sample.parts[extension]
        if file.irregular:
            raise DataError(f"{self.called(sample, extension)} is {file.irregular}")
        for _ in range(8 if self._cache is not None else 0):
            assert self._cache is not None
            if (copy := self._cache.copy(file)) is None:
                break
            with suppress(FileNotFoundError), copy.open("rb") as local:  # another process may just have made room
                return local.read(-1 if most is None else most)
        try:
            if most is not None and (most < file.size or storage.local_path(file.url) is not None):
                return storage.read_bytes(file.url, 0, most)
            return storage.read_bytes(file.url, most=max(file.size, _GROWN))
        except StorageError as error:
            if storage.local_path(file.url) is None:
                raise
            raise DataError(str(error)) from error

    def fetch_many(self, wanted: Sequence[tuple[Sample, str]]) -> Iterable[bytes | None]:
        """The bytes of many files, in order, None for one that does not open; remote ones several at a time."""
        if not wanted or storage.local_path(wanted[0][0].parts[wanted[0][1]].url) is not None:
            for sample, extension in wanted:
                try:
                    yield self.fetch(sample, extension)
                except DataError:
                    yield None
            return
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
            yield from pool.map(lambda each: self.fetch(*each), wanted)

    def beside(self, name: str) -> bytes | None:
        """A file at the top of the split's folder, or of those above it."""
        parts = self._base.rstrip("/").split("/") if self._base else []
        for folder in ("/".join(parts[:count]) for count in range(len(parts), -1, -1)):
            url = storage.join(self._root, *(part for part in (folder, name) if part))
            if storage.exists(url):
                return storage.read_bytes(url)
        return None

    def notes(self) -> str:
        """Unread files of the folder, for the line that describes the data."""
        links = self._linked_folders()
        followed = f"{len(links)} links to folders followed ({links[0]})" if links else ""
        return "; ".join(filter(None, [followed, self.left_out.text()]))

    def _linked_folders(self) -> list[str]:
        """The folders on this disk that are links to others."""
        if storage.local_path(self._root) is None:
            return []
        folders = {path.rpartition("/")[0] for path in self.files}
        folders |= {folder[:i] for folder in folders for i, sign in enumerate(folder) if sign == "/"}
        return sorted(f for f in folders - {""} if os.path.islink(f"{self._top}{self._base}{f}"))

    def digest(self, former: bool = False) -> str:
        """Hash of file names, sizes and etags, and of the metadata rows; `former`: of all files that lie there, read or
        not, as 0.1.0 made it."""
        if former not in self._digests:
            self._digests[former] = self._digest(former)
        return self._digests[former]

    def _digest(self, former: bool) -> str:
        state = hashlib.sha256()
        for path, file in sorted(self.files.items()):
            if path in self._others and not former:
                continue
            state.update(f"{path}\0{file.size}\0{file.mark}\n".encode("utf-8", "surrogateescape"))
        for sample in self.samples:
            if sample.row is not None:
                state.update(json.dumps(sample.row, sort_keys=True).encode())
        # What follows leaves the hash of data as 0.1.0 read it alone: one sample a name, of the formats of then.
        stems = [(path, *split_path(path)) for path in sorted(self.files)]
        first = dict.fromkeys(stem for _, stem, extension in stems if extension in PICTURES[:FIRST_PICTURES])
        if (names := [sample.name for sample in self.samples]) != list(first):
            state.update(json.dumps(names).encode())
        state.update(self._boxes.encode())
        return state.hexdigest()


def _prefix(root: str) -> str:
    """Prefix of listed URLs before their path inside ``root``; listings may spell the root another way."""
    path = storage.local_path(root)
    if path is not None:
        return str(path.absolute()).rstrip("/") + "/"
    fs, inner = storage.filesystem(root)
    return str(fs.unstrip_protocol(inner)).rstrip("/") + "/"
