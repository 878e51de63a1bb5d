"""Converted networks on this machine's disk: one folder each, named by the hash of all that they were made of.

They lie in a folder of the user's own and never beside the weights: a run's folder may come from anybody, and a
converted network computes whatever its file says. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from ldm_core.errors import ConfigError

VARIABLE = "LDM_OPENVINO_CACHE"
"""The variable that names another folder."""
MOST = 24
"""Converted networks that stay; those used last."""
_MODEL, _SUMS = "model.xml", "sums.json"
_FILES = (_MODEL, "model.bin")


def folder() -> Path:
    """The folder of the converted networks."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/ldm-core/openvino").expanduser()


def find(key: str) -> Path | None:
    """The whole network called `key` that was converted here, or None."""
    place = folder() / key
    try:
        sums = json.loads((place / _SUMS).read_bytes())
        whole = sums == {name: _sum(place / name) for name in _FILES}
    except (OSError, ValueError):
        return None
    if not whole:
        return None
    with contextlib.suppress(OSError):
        os.utime(place)
    return place / _MODEL


def keep(key: str, save: Callable[[Path], object]) -> Path | None:
    """The network called `key` as ``save(path)`` writes it, in place of a former one; None where the disk takes none.

    It appears whole or not at all. :class:`ConfigError` for a folder that others may write into.
    """
    base = folder()
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_own(base)
        work = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=base))
        try:
            save(work / _MODEL)
            (work / _SUMS).write_text(json.dumps({name: _sum(work / name) for name in _FILES}))
            shutil.rmtree(base / key, ignore_errors=True)
            work.rename(base / key)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        _make_room(base)
    except (OSError, RuntimeError):  # a full or read-only disk
        return None
    return base / key / _MODEL


def require_own(base: Path) -> None:
    """:class:`ConfigError` if another user owns `base` or may write into it."""
    try:
        about = base.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if os.name == "posix" and (about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise ConfigError(
            f"{base}: others may write there, and with it change what a model computes; make it your own (chmod 700), "
            f"or name another folder in {VARIABLE}"
        )


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_room(base: Path) -> None:
    found = sorted((p for p in base.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for place in found[MOST:]:
        shutil.rmtree(place, ignore_errors=True)
