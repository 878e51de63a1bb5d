"""Copies of remote weights in a local folder: ``LDM_CACHE``, else ``~/.cache/ldm-core/weights``. Imports no torch.

A copy is known by URL, size and ETag, and appears whole or not at all (:mod:`ldm_core.storage.cache`). Nothing is
removed
by itself: weights are few and long in coming.
"""

from __future__ import annotations

import os
from pathlib import Path

from ldm_core import storage
from ldm_core.errors import CheckpointError, StorageError
from ldm_core.recipe import artifacts
from ldm_core.storage.cache import DataCache

FOLDER = "LDM_CACHE"
"""The variable that names another folder."""


def folder() -> str:
    """Folder of the copies."""
    return os.environ.get(FOLDER) or str(Path("~/.cache/ldm-core/weights").expanduser())


def local_copy(file: storage.FileInfo, sha256: str = "") -> Path:
    """The local copy of a remote file, fetched now if it is not there. With `sha256`, its hash is compared each time;
    CheckpointError where it is another one, and the copy goes."""
    where = storage.shown(file.url)
    if not file.size:
        raise StorageError(f"cannot read {where}: it is empty, or its server does not say how large it is; copy it")
    copies = DataCache(folder(), 1 << 62, f"the variable {FOLDER}")
    path = copies.copy(file)
    if path is None:
        raise StorageError(f"cannot read {where}: it is too large to be kept")
    if sha256 and (found := artifacts.another(str(path), sha256)):
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{where}: has the SHA-256 {found} and not {sha256}; it is another file, or damaged")
    return path
