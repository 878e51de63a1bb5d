"""The entry points of the installed distributions. Imports next to nothing.

`importlib.metadata` imports parsers of e-mails and ZIP files, a fifth of the time of a list of commands. It is asked
only if something else than folders is on the path of imports. Kept between two calls is which distributions of a
folder have no entry points, for as long as the system says that nothing came or went there (installers write a
distribution's folder anew), and the files of the others, for as long as it says that they did not change.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from typing import NamedTuple


class EntryPoint(NamedTuple):
    """A line ``name = package.module:attribute`` of a distribution, whose name and version are "?" if it says none."""

    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> object:
        """Import the module, or what it names in it."""
        module, _, path = re.sub(r"\[.*\]$", "", self.value).partition(":")
        target: object = importlib.import_module(module.strip())
        for attribute in filter(None, path.strip().split(".")):
            target = getattr(target, attribute)
        return target


def entry_points(group: str) -> list[EntryPoint]:
    """Find the entry points of `group`; of distributions of one name, those of the first on the path count."""
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
    if finders == [PathFinder] and not any(place.endswith(".egg") or os.path.isfile(place) for place in sys.path):
        return list(_in_folders(group))
    from importlib import metadata

    found = []
    for point in metadata.entry_points(group=group):
        said = (point.dist.read_text("METADATA") or point.dist.read_text("PKG-INFO")) if point.dist else ""
        found.append(_entry_point(point.name, point.value, said or ""))
    return found


def _in_folders(group: str) -> Iterator[EntryPoint]:
    seen: set[str] = set()
    for place in sys.path:
        with contextlib.suppress(OSError):
            for name, distribution, may_have in _distributions(place or "."):
                if distribution not in seen:
                    seen.add(distribution)
                    if may_have:
                        yield from _of(f"{place or '.'}/{name}", group)


_KNOWN: dict[str, tuple[tuple[int, int], list[tuple[str, str, bool]]]] = {}


def _distributions(place: str) -> list[tuple[str, str, bool]]:
    """Folder, name and whether it may have entry points, of each distribution in the folder `place`."""
    place = os.path.abspath(place)
    about = os.stat(place)
    state = about.st_ino, about.st_mtime_ns
    if place not in _KNOWN or _KNOWN[place][0] != state:
        found = []
        for name in os.listdir(place):
            if name.endswith((".dist-info", ".egg-info")):
                distribution = re.sub(r"[-_.]+", "_", name.rpartition(".")[0].partition("-")[0]).lower()
                may_have = name.endswith(".egg-info") or os.path.exists(f"{place}/{name}/entry_points.txt")
                found.append((name, distribution, may_have))
        if not _is_old(about):
            return found
        _KNOWN[place] = state, found
    return _KNOWN[place][1]


def _is_old(about: os.stat_result) -> bool:
    """False if the next change might be of the same moment, and would not show."""
    return time.time_ns() - about.st_mtime_ns >= 2_000_000_000


def _of(folder: str, group: str) -> Iterator[EntryPoint]:
    text = _read(f"{folder}/entry_points.txt")
    if f"[{group}]" not in text:
        return
    said = _read(f"{folder}/METADATA") or _read(f"{folder}/PKG-INFO")
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif section == group and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield _entry_point(name.strip(), value.strip(), said)


_TEXTS: dict[str, tuple[tuple[int, int, int], str]] = {}


def _read(path: str) -> str:
    """A file's text; empty without one. Kept for as long as the system says that the file is the same."""
    try:
        about = os.stat(path)
        state = about.st_ino, about.st_mtime_ns, about.st_size
        if path in _TEXTS and _TEXTS[path][0] == state:
            return _TEXTS[path][1]
        with open(path, "rb", buffering=0) as file:
            text = file.read().decode().replace("\r\n", "\n")
    except OSError:
        return ""
    if _is_old(about):
        _TEXTS[path] = state, text
    return text


def _entry_point(name: str, value: str, said: str) -> EntryPoint:
    """Read the two lines of a distribution's headers; the parser of e-mails would read its description too."""
    headers: Mapping[str, str] = dict(line.partition(": ")[::2] for line in said.partition("\n\n")[0].splitlines())
    return EntryPoint(name, value, *(headers.get(key, "?").strip() for key in ("Name", "Version")))
