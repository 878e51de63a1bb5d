"""Pictures found by their names in annotations: among the data's own, never by a path on the disk."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from ldm_core.errors import DataError, quoted

_ABSOLUTE = re.compile(r"/|[A-Za-z]:/|[a-z0-9+]+://")


class Names:
    """The places of pictures by their paths, in any order of folders that both sides say."""

    def __init__(self, paths: Sequence[str], root: str = "") -> None:
        self.paths = paths
        self._root = tuple(part for part in _plain(root).split("/") if part)
        self._by_name: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        for place, path in enumerate(paths):
            name = _plain(path).rpartition("/")[2]
            self._by_name.setdefault(name, []).append(place)
            self._by_stem.setdefault(_stem(name), []).append(place)

    def find(self, named: str, where: str) -> list[int]:
        """The place of the picture called `named`, or several of one file; [] for none.

        Folders in the name must be those of the picture, as far as both go; of an absolute name, which may be of
        another machine, they only tell pictures of one name apart. DataError if they do not.
        """
        name = _plain(named)
        folders, base = name.split("/")[:-1], name.rpartition("/")[2]
        found = self._by_name.get(base) or self._by_stem.get(base) or self._by_stem.get(_stem(base), [])
        folders = [part for part in folders if part not in ("", ".")]
        absolute = bool(_ABSOLUTE.match(name))
        scored = [(score, place) for place in found if (score := self._shared(place, folders, absolute)) >= 0]
        best = max((score for score, _ in scored), default=0)
        chosen = [place for score, place in scored if score == best]
        if len({self.paths[place] for place in chosen}) > 1:
            one, other = (self.paths[place] for place in chosen[:2])
            raise DataError(
                f"{where}: {quoted(named, 120)} may be {quoted(one, 120)} or {quoted(other, 120)}; say its folder, "
                "or give the pictures names of their own"
            )
        return chosen

    def _shared(self, place: int, folders: Sequence[str], absolute: bool) -> int:
        """The number of folders that agree, from the last on; -1 where two differ that should not."""
        own = (*self._root, *_plain(self.paths[place]).split("/")[:-1])
        count = 0
        for mine, theirs in zip(reversed(own), reversed(folders), strict=False):
            if mine != theirs:
                return count if absolute else -1
            count += 1
        return count


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def stems(paths: Iterable[str]) -> frozenset[str]:
    """The names of files without folder and extension."""
    return frozenset(_stem(_plain(path).rpartition("/")[2]) for path in paths)
