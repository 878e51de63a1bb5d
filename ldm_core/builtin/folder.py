"""The ``folder`` reader: pictures in folders, with annotations beside them or in a metadata file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ldm_core import storage
from ldm_core.builtin.folder_config import FolderConfig
from ldm_core.builtin.reading import RecordDataset, Sample
from ldm_core.builtin.reading_values import PICTURES
from ldm_core.contracts import Site
from ldm_core.errors import DataError, StorageError

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "dev": "val"}
_METADATA = ("metadata.jsonl", "metadata.csv")
# Extensions with a dot inside; other dots belong to the picture's name.
_COMPOUND = (".seg.png", ".mask.png", ".embedding.npy")
_FETCHES_AT_ONCE = 16
_GROWN = 16 << 20  # bytes that a file may have though the folder's list says less


class FolderDataset(RecordDataset):
    """Pictures of a folder; see :class:`ldm_core.builtin.reading.RecordDataset`."""

    def __init__(self, config: FolderConfig, site: Site) -> None:
        super().__init__(config, site, FolderStore(config, site))


class FolderStore:
    """The files of a folder, grouped by name; bytes on demand."""

    def __init__(self, config: FolderConfig, site: Site) -> None:
        self.title = storage.shown(config.url)
        self._cache = site.cache
        roots = storage.expand(config.url)
        if len(roots) != 1 or not storage.is_folder(roots[0]):
            what = f"{len(roots)} places" if len(roots) > 1 else "no folder by that name"
            raise DataError(f"{self.title}: expected one folder of pictures, found {what}; check the URL")
        self._root = roots[0]
        files = storage.list_files(self._root, recursive=True)
        self._top = _prefix(self._root, files)
        tree = {file.url.removeprefix(self._top): file for file in files}
        self._base, tree = _of_split(tree, config.split, self.title)
        self.files = tree
        rows = self._rows(tree)
        self.samples = _grouped(tree, rows)
        if not self.samples:
            seen = sorted(tree)[:5]
            raise DataError(
                f"{self.title}: no pictures; looked for {', '.join('.' + p for p in PICTURES)}, found "
                f"{', '.join(seen) if seen else 'an empty folder'}; check the URL"
            )

    def _rows(self, tree: Mapping[str, storage.FileInfo]) -> dict[str, Mapping[str, Any]]:
        rows: dict[str, Mapping[str, Any]] = {}
        for path in sorted(tree):
            folder, slash, base = path.rpartition("/")
            if base in _METADATA:
                where = storage.shown(tree[path].url)
                for row in read_metadata(storage.read_text(tree[path].url), base, where):
                    name = folder + slash + str(row["file_name"])
                    if name not in tree:
                        raise DataError(f"{where}: '{row['file_name']}' is not there; remove the row")
                    rows[name] = row
        return rows

    def size(self, sample: Sample, extension: str) -> int:
        """The number of bytes of one file."""
        file: storage.FileInfo = sample.parts[extension]
        return file.size

    def fetch(self, sample: Sample, extension: str, most: int | None = None) -> bytes:
        """The bytes of one file, or its first `most`."""
        file: storage.FileInfo = sample.parts[extension]
        for _ in range(8 if self._cache is not None else 0):
            assert self._cache is not None
            if (copy := self._cache.copy(file)) is None:
                break
            with suppress(FileNotFoundError), copy.open("rb") as local:  # another process may just have made room
                return local.read(-1 if most is None else most)
        if most is not None and (most < file.size or storage.local_path(file.url) is not None):
            return storage.read_bytes(file.url, 0, most)
        return storage.read_bytes(file.url, most=max(file.size, _GROWN))

    def fetch_many(self, wanted: Sequence[tuple[Sample, str]]) -> Iterable[bytes]:
        """The bytes of many files, in order; remote ones several at a time."""
        if not wanted or storage.local_path(wanted[0][0].parts[wanted[0][1]].url) is not None:
            yield from (self.fetch(*each) for each in wanted)
            return
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
            yield from pool.map(lambda each: self.fetch(*each), wanted)

    def beside(self, name: str) -> bytes | None:
        """A file at the top of the folder, or of the split's."""
        for folder in dict.fromkeys((self._base, "")):
            url = storage.join(self._root, *(part for part in (folder, name) if part))
            if storage.exists(url):
                return storage.read_bytes(url)
        return None

    def digest(self) -> str:
        """Hash of file names, sizes and etags, and of the metadata rows."""
        state = hashlib.sha256()
        for path, file in sorted(self.files.items()):
            state.update(f"{path}\0{file.size}\0{file.mark}\n".encode("utf-8", "surrogateescape"))
        for sample in self.samples:
            if sample.row is not None:
                state.update(json.dumps(sample.row, sort_keys=True).encode())
        return state.hexdigest()


def _prefix(root: str, files: Sequence[storage.FileInfo]) -> str:
    """What listed URLs have before their path inside ``root``; listings may spell the root another way."""
    path = storage.local_path(root)
    if path is not None:
        return str(path.absolute()).rstrip("/") + "/"
    fs, inner = storage.filesystem(root)
    return str(fs.unstrip_protocol(inner)).rstrip("/") + "/"


def _of_split(
    tree: Mapping[str, storage.FileInfo], split: str, title: str
) -> tuple[str, dict[str, storage.FileInfo]]:
    """The split's folder and its files, where all top folders are named for splits; else everything."""
    tops = {path.partition("/")[0] for path in tree if "/" in path}
    if not tops or not all(top.lower() in _SPLITS for top in tops):
        if split != "train":
            raise DataError(f"{title}: no split '{split}'; it has no sub-folder of that name")
        return "", dict(tree)
    top = next((top for top in sorted(tops) if split in (top.lower(), _SPLITS[top.lower()])), None)
    if top is None:
        raise DataError(f"{title}: no split '{split}'; found {', '.join(sorted(tops))}")
    return top, {
        path.removeprefix(top + "/"): file for path, file in tree.items() if path.startswith(top + "/")
    }


def _grouped(tree: Mapping[str, storage.FileInfo], rows: Mapping[str, Mapping[str, Any]]) -> list[Sample]:
    """One sample a picture, by path; what shares its name is part of it."""
    pictures: dict[str, str] = {}
    parts: dict[str, dict[str, storage.FileInfo]] = {}
    for path in sorted(tree):
        stem, extension = split_path(path)
        parts.setdefault(stem, {})[extension] = tree[path]
        if extension in PICTURES:
            pictures.setdefault(stem, path)
    folders = {path.rpartition("/")[0] for path in pictures.values()}
    as_classes = len({folder.partition("/")[0] for folder in folders}) > 1 and "" not in folders
    return [
        Sample(
            stem,
            parts[stem],
            rows.get(path, {}) if rows else None,
            stem.partition("/")[0] if as_classes else "",
        )
        for stem, path in pictures.items()
    ]


def split_path(path: str) -> tuple[str, str]:
    """``cats/a.b.jpg`` -> (``cats/a.b``, ``jpg``); ``cats/a.seg.png`` -> (``cats/a``, ``seg.png``)."""
    lower = path.lower()
    for compound in _COMPOUND:
        if lower.endswith(compound):
            return path[: -len(compound)], compound[1:]
    folder, slash, base = path.rpartition("/")
    stem, dot, extension = base.rpartition(".")
    return (folder + slash + stem, extension.lower()) if dot and stem else (path, "")


def read_metadata(text: str, name: str, where: str) -> list[dict[str, Any]]:
    """Rows of a metadata.jsonl or metadata.csv; each has ``file_name``. Empty CSV cells are left out."""
    rows: list[dict[str, Any]] = []
    if name.endswith(".csv"):
        rows = [
            {key: value for key, value in row.items() if key and value not in (None, "")}
            for row in csv.DictReader(io.StringIO(text))
        ]
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: line {number} is not JSON ({error})") from error
            rows.append(row if isinstance(row, dict) else {})
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("file_name"), str):
            raise DataError(f"{where}: row {number} has no 'file_name'; each row names its picture there")
    return rows


def guess_reader(url: str) -> str:
    """``tar`` or ``folder``: which reader suits what lies at ``url``. DataError where nothing is there."""
    if not str(url).strip():
        raise DataError("--data: empty; give the path or URL of tars or of a folder of pictures")
    plain = url.lower().split("?")[0]
    if plain.endswith((".tar", ".tgz")) or ".tar." in storage.base_name(plain):
        return "tar"
    try:
        roots = storage.expand(url)
        files = [file for root in roots for file in storage.list_files(root)]
    except StorageError as error:
        raise DataError(f"--data: {error}") from error
    return "tar" if any(file.url.lower().endswith(".tar") for file in files) else "folder"
