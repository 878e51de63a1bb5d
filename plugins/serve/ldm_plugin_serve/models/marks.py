"""The mark of a run's files: another one once the run was trained on, or its presets were changed. No torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from ldm_core import storage
from ldm_core.errors import LDMError
from ldm_core.recipe import artifacts

_PAUSE = 10.0  # seconds between two looks at files that are not on this machine


class Marks:
    """Remembers the mark of each run by its URL; remote ones are asked for at most every ten seconds."""

    def __init__(self) -> None:
        self._marks: dict[str, tuple[Any, ...]] = {}
        self._due: dict[str, float] = {}

    def changed(self, url: str) -> bool:
        """True if the run's files are others than at the last call; not of files that are gone, nor the first time."""
        remote = storage.local_path(url) is None
        if remote and time.monotonic() < self._due.get(url, 0.0):
            return False
        mark = tuple(_marks(url))
        self._due[url] = time.monotonic() + _PAUSE
        before = self._marks.get(url)
        if not mark or mark == before:
            return False
        self._marks[url] = mark
        return before is not None


def _marks(url: str) -> Iterator[Any]:
    """The mark of each file; by names alone, as this is asked at every request. Folders of other programs have none."""
    whole = url.endswith(artifacts.SUFFIXES)
    for file in [url] if whole else [storage.join(url, name) for name in (artifacts.MODEL_FILE, artifacts.STAGE_FILE)]:
        try:
            path = storage.local_path(file)
            if path is None:
                told = storage.info(file)
                yield told.size, told.mark
            else:
                stat = os.stat(path)
                yield stat.st_size, stat.st_mtime_ns, stat.st_ino
        except (LDMError, OSError):
            continue  # in between two files, or gone: what was read goes on
