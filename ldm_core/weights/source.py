"""Weights by path or URL: one file or a folder of them, with the configs beside it. Nothing in them is ever run.

What is remote is copied first, file by file as it is asked for (:mod:`ldm_core.weights.cache`). Structure is read at
once, tensors one by one. Imports torch only to read a tensor.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ldm_core import storage
from ldm_core.contracts.codec import TensorFile
from ldm_core.contracts.values import EMPTY
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.artifacts import SUFFIXES
from ldm_core.storage.failures import reported
from ldm_core.storage.local import open_file as open_regular
from ldm_core.weights import cache
from ldm_core.weights.containers import configs
from ldm_core.weights.containers.detect import open_file
from ldm_core.weights.containers.sharded import ShardedFile

_MOST_FILES = 10_000
_WEB = ("http", "https")
_INDEX = re.compile(r"\.index(\.\w+)?\.json$")


def open_source(url: str, given: Mapping[str, Any] = EMPTY, *, sha256: str = "") -> OpenedSource:
    """The weights at `url`, a file or a folder; see :class:`ldm_core.contracts.codec.Source`.

    `given`: plain recipe values that overrule the recognised ones. `sha256`: the expected hash of the file, 64 hex
    digits. StorageError if nothing is there or it cannot be read, CheckpointError for another hash.
    """
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"sha256: expected 64 hex digits, got '{sha256[:80]}'")
    remote = storage.local_path(url) is None
    source = RemoteSource(url, given, sha256.lower()) if remote else LocalSource(url, given, sha256.lower())
    if sha256 and source.folder:
        raise ConfigError(f"{source.url}: is a folder, and a hash is that of one file; give the file")
    return source


class OpenedSource(ABC):
    """See :class:`ldm_core.contracts.codec.Source`. Subclasses say which files there are and where they lie on this
    machine."""

    names: Sequence[str]
    folder: bool

    def __init__(self, url: str, given: Mapping[str, Any]) -> None:
        self.url, self.given = storage.shown(url), given
        self._open: dict[str, TensorFile] = {}
        self._asked: dict[str, Path] = {}
        self._hashes: dict[Path, str] = {}

    @abstractmethod
    def _file(self, name: str) -> Path | None:
        """The local path of a file of the folder, or beside the file; "" is the file itself. None where it is not."""

    def tensors(self, name: str = "") -> TensorFile:
        """The file itself, or one of the folder; see :meth:`ldm_core.contracts.Source.tensors`. Files that an index
        (``NAME.index.json``) makes one are opened by the index's name or by `NAME`."""
        if name not in self._open:
            self._open[name] = self._tensors(name)
        return self._open[name]

    def _tensors(self, name: str) -> TensorFile:
        if not name and self.folder:
            name = self._only()
        elif name and not self.folder:
            raise CheckpointError(f"{self.url}: is one file and holds no '{name}'")
        own = name or storage.base_name(self.url)
        if not _INDEX.search(own):
            path = self._path(name)
            if path is not None:
                return open_file(self._shown(name), path)
            own = next((each for each in _indices(name) if name and self._path(each) is not None), "")
            if not own:
                raise CheckpointError(f"{self.url}: holds no file '{name}'")
        index = self.config(own)
        if index is None:
            raise CheckpointError(f"{self.url}: holds no file '{own}'")
        return ShardedFile(self._shown(own), index, lambda shard: self._shard(own, shard))

    def _shard(self, index: str, shard: str) -> TensorFile:
        name = f"{index.rpartition('/')[0]}/{shard}".lstrip("/")
        path = self._path(name)
        if path is None:
            raise CheckpointError(f"{self._shown(index)}: names the file '{shard}', which is not there")
        return open_file(self._shown(name), path)

    def _only(self) -> str:
        """The one file of tensors in a folder."""
        indices = [name for name in self.names if _INDEX.search(name)]
        tensors = indices or [name for name in self.names if name.endswith(SUFFIXES)]
        if len(tensors) != 1:
            found = ", ".join(tensors[:8]) or "none"
            raise CheckpointError(f"{self.url}: is a folder; say which file of tensors is meant ({found})")
        return tensors[0]

    def config(self, name: str) -> Mapping[str, Any] | None:
        """A JSON or YAML file; see :meth:`ldm_core.contracts.codec.Source.config`."""
        data = self.text(name, limit=configs.limit(name))
        return None if data is None else configs.parse(data, name, self._shown(name))

    def text(self, name: str, *, limit: int = 16 << 20) -> bytes | None:
        """A small file; see :meth:`ldm_core.contracts.codec.Source.text`."""
        if not name:
            raise CheckpointError(f"{self.url}: say which text file is meant")
        path = self._path(name, limit)
        if path is None:
            return None
        with reported("read", self._shown(name)), open_regular(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise CheckpointError(
                f"{self._shown(name)}: has more than {limit:,} bytes, too many for a file of its kind"
            )
        return data

    def sha256(self) -> str:
        """Hash of the file, or of the folder's requested files; see :meth:`ldm_core.contracts.codec.Source.sha256`."""
        if not self.folder:
            path = self._path("")
            return "" if path is None else self._hash(path)
        lines = "".join(f"{name} {self._hash(path)}\n" for name, path in sorted(self._asked.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = artifacts.hash_of(str(path))
        return self._hashes[path]

    def _path(self, name: str, limit: int | None = None) -> Path | None:
        parts = name.split("/")
        if name and any(p in ("", ".", "..") or "\\" in p or ":" in p or not p.isprintable() for p in parts):
            raise CheckpointError(f"{self.url}: '{name[:100]}' is no name of a file in it")
        path = self._sized(name, limit)
        if path is not None and name:
            self._asked[name] = path
        return path

    def _sized(self, name: str, limit: int | None) -> Path | None:
        """As `_file`; a file larger than `limit` bytes may stay remote, if that is an error."""
        return self._file(name)

    def _shown(self, name: str) -> str:
        if not name:
            return self.url
        return storage.join(self.url if self.folder else storage.parent(self.url), name)


class LocalSource(OpenedSource):
    """Weights on a local disk."""

    def __init__(self, url: str, given: Mapping[str, Any], sha256: str = "") -> None:
        super().__init__(url, given)
        path = storage.local_path(url)
        if path is None or not storage.exists(url):
            raise CheckpointError(f"{self.url}: no such file or folder")
        self.path, self.folder = path, path.is_dir()
        known = not sha256 or self.folder or self._hash(path) == sha256
        if not known and (found := artifacts.another(str(path), sha256)):
            raise CheckpointError(
                f"{self.url}: has the SHA-256 {found} and not {sha256}; it is another file, or damaged"
            )

    @cached_property
    def names(self) -> Sequence[str]:  # type: ignore[override]
        """Files in a folder; for a file, those beside it, the first thousands."""
        root = self.path if self.folder else self.path.parent
        with reported("list", self.url):
            found = (p.relative_to(root).as_posix() for p in root.glob("**/*" if self.folder else "*") if p.is_file())
            visible = (n for n in found if not any(part.startswith(".") for part in n.split("/")))
            names = sorted(itertools.islice(visible, _MOST_FILES + 1))
        if self.folder and len(names) > _MOST_FILES:
            raise CheckpointError(f"{self.url}: holds more than {_MOST_FILES:,} files; give the model's own folder")
        return tuple(names)

    def _file(self, name: str) -> Path | None:
        if not name:
            return self.path
        path = (self.path if self.folder else self.path.parent) / name
        return path if storage.exists(path) and not storage.is_folder(path) else None


class RemoteSource(OpenedSource):
    """Weights at a URL, of which a local copy is read. A web server lists nothing: there, files beside the one that
    was given are found by their names alone."""

    def __init__(self, url: str, given: Mapping[str, Any], sha256: str = "") -> None:
        super().__init__(url, given)
        self._remote, _, query = url.partition("?") if storage.protocol(url) in _WEB else (url, "", "")
        self._query = f"?{query}" if query else ""
        self._sha256 = sha256
        self._copy: Path | None = None
        named = self._remote.lower().endswith((*SUFFIXES, ".index.json"))
        self.folder = not named and storage.protocol(url) not in _WEB and storage.is_folder(url)

    @cached_property
    def _listing(self) -> Mapping[str, storage.FileInfo]:
        root = self._remote if self.folder else storage.parent(self._remote)
        if storage.protocol(root) in _WEB:
            return EMPTY
        fs, inner = storage.filesystem(root)
        prefix = fs.unstrip_protocol(inner.rstrip("/")) + "/"  # as listings spell it
        files = storage.list_files(root, recursive=self.folder)
        return {each.url.removeprefix(prefix): each for each in files if each.url.startswith(prefix)}

    @cached_property
    def names(self) -> Sequence[str]:  # type: ignore[override]
        """Files in a folder; for a file, those beside it."""
        return tuple(self._listing)

    def _file(self, name: str) -> Path | None:
        return self._sized(name, None)

    def _sized(self, name: str, limit: int | None) -> Path | None:
        if not name:
            if self._copy is None:
                self._copy = cache.local_copy(storage.info(self._remote + self._query), self._sha256)
            return self._copy
        if storage.protocol(self._remote) in _WEB:
            # what is signed is signed for one file, so a query is not passed on
            url = storage.join(storage.parent(self._remote), name)
            file = storage.info(url) if storage.exists(url) else None
        else:
            file = self._listing.get(name)
        if file is None:
            return None
        if limit is not None and file.size > limit:
            raise CheckpointError(
                f"{self._shown(name)}: has more than {limit:,} bytes, too many for a file of its kind"
            )
        return cache.local_copy(file)


def _indices(name: str) -> tuple[str, ...]:
    """Possible names of the index of a file in pieces: for ``m.fp16.bin``, ``m.bin.index.fp16.json`` too."""
    stem, dot, suffix = name.rpartition(".")
    plain, second, variant = stem.rpartition(".")
    names = [f"{name}.index.json"]
    if second:
        names.append(f"{plain}{dot}{suffix}.index.{variant}.json")
    return tuple(names)
