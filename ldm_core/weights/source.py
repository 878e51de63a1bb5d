"""Weights by path or URL: one file or a folder of them, with the configs beside it. Nothing in them is ever run.

Structure is read at once where it is asked for, tensors one by one. Imports torch only to read a tensor.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_core import artifacts, storage
from ldm_core.codec import TensorFile
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.specs import EMPTY
from ldm_core.weights import configs
from ldm_core.weights.containers import SUFFIXES, open_file

_MOST_FILES = 10_000


def open_source(url: str, given: Mapping[str, Any] = EMPTY, *, sha256: str = "") -> LocalSource:
    """The weights at `url`, a file or a folder; see :class:`ldm_core.codec.Source`.

    `given`: plain recipe values that overrule what is recognised. `sha256`: the hash that the file must have, 64 hex
    digits. StorageError where nothing is there, CheckpointError where the hash is another one.
    """
    path = storage.local_path(url)
    if path is None:
        raise ConfigError(f"{storage.shown(url)}: give a local path")
    if not path.exists():
        raise CheckpointError(f"{url}: no such file or folder")
    source = LocalSource(url, path, given)
    if sha256:
        _verify(source, sha256)
    return source


class LocalSource:
    """See :class:`ldm_core.codec.Source`; `url` names it in messages, `path` is where it lies."""

    def __init__(self, url: str, path: Path, given: Mapping[str, Any]) -> None:
        self.url, self.path, self.given = storage.shown(url), path, given
        self.folder = path.is_dir()
        self._open: dict[str, TensorFile] = {}
        self._asked: dict[str, Path] = {}
        self._hashes: dict[Path, str] = {}

    @property
    def names(self) -> Sequence[str]:
        """Of a folder, the files in it; of a file, those beside it."""
        root = self.path if self.folder else self.path.parent
        found = (p for p in (root.rglob("*") if self.folder else root.iterdir()) if p.is_file())
        names = []
        for each in found:
            name = each.relative_to(root).as_posix()
            if not any(part.startswith(".") for part in name.split("/")):
                names.append(name)
            if len(names) > _MOST_FILES:
                raise CheckpointError(f"{self.url}: holds more than {_MOST_FILES:,} files; give the model's own folder")
        return tuple(sorted(names))

    def tensors(self, name: str = "") -> TensorFile:
        """The file itself, or one of the folder; see :meth:`ldm_core.codec.Source.tensors`."""
        if name not in self._open:
            self._open[name] = open_file(*self._place(name))
        return self._open[name]

    def config(self, name: str) -> Mapping[str, Any] | None:
        """A JSON or YAML file; see :meth:`ldm_core.codec.Source.config`."""
        data = self.text(name, limit=configs.limit(name))
        return None if data is None else configs.parse(data, name, self._shown(name))

    def text(self, name: str, *, limit: int = 16 << 20) -> bytes | None:
        """A small file; see :meth:`ldm_core.codec.Source.text`."""
        path = (self.path if self.folder else self.path.parent) / _inside(self.url, name)
        if not path.is_file():
            return None
        if path.stat().st_size > limit:
            raise CheckpointError(f"{self._shown(name)}: has more than {limit:,} bytes")
        self._asked[name] = path
        return storage.read_bytes(str(path))

    def _shown(self, name: str) -> str:
        return storage.join(self.url if self.folder else storage.parent(self.url), name)

    def _place(self, name: str) -> tuple[str, Path]:
        if not self.folder:
            if name:
                raise CheckpointError(f"{self.url}: is one file and holds no '{name}'")
            return self.url, self.path
        if not name:
            tensors = [each for each in self.names if each.endswith(SUFFIXES)]
            if len(tensors) != 1:
                found = ", ".join(tensors[:8]) or "none"
                raise CheckpointError(f"{self.url}: is a folder; say which file of tensors is meant ({found})")
            name = tensors[0]
        path = self.path / _inside(self.url, name)
        if not path.is_file():
            raise CheckpointError(f"{self.url}: holds no file '{name}'")
        self._asked[name] = path
        return self._shown(name), path

    def sha256(self) -> str:
        """Of the file, or of what was asked for of the folder; see :meth:`ldm_core.codec.Source.sha256`."""
        if not self.folder:
            return self._hash(self.path)
        lines = "".join(f"{name} {self._hash(path)}\n" for name, path in sorted(self._asked.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = artifacts.hash_of(str(path))
        return self._hashes[path]


def _inside(url: str, name: str) -> str:
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts):
        raise CheckpointError(f"{url}: '{name[:100]}' is no name of a file in it")
    return name


def _verify(source: LocalSource, expected: str) -> None:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise ConfigError(f"sha256: expected 64 hex digits, got '{expected[:80]}'")
    if source.folder:
        raise ConfigError(f"{source.url}: is a folder, and a hash is that of one file; give the file")
    found = source.sha256()
    if found != expected.lower():
        raise CheckpointError(f"{source.url}: has the SHA-256 {found} and not {expected.lower()}; it is another file")
