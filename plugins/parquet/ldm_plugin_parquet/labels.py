"""Classes of the rows: their names, their number, and the class of each row, in eight bytes a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core import storage
from ldm_core.data.class_names import are_numbers
from ldm_core.data.images import decode_labels
from ldm_core.data.palettes import UNLABELED
from ldm_core.data.records.sources import MOST_CLASSES, MOST_NAME, names_of
from ldm_core.errors import DataError, clean, quoted
from ldm_plugin_parquet.columns import Column
from ldm_plugin_parquet.config import ParquetConfig
from ldm_plugin_parquet.files import Files

_CLASSES = "classes.json"
_MAPS = 256  # label maps that are decoded to count classes, where nothing says how many there are
_MOST_TEXTS = 1 << 16  # different names of classes in a column; more are texts and no classes


@attrs.define(eq=False)
class Labels:
    """By key: `names` and `counts` of the classes; `codes` (rows,) int64, the class of each row, -1 for none
    of these. `numbered`: keys with numbers as names."""

    names: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    counts: dict[str, int] = attrs.field(factory=dict)
    codes: dict[str, NDArray[np.int64]] = attrs.field(factory=dict)
    numbered: set[str] = attrs.field(factory=set)
    there: NDArray[np.bool_] = attrs.field(factory=lambda: np.ones(0, bool))
    """True for each row with a class, right or wrong."""

    @classmethod
    def read(cls, files: Files, columns: Mapping[str, Column], config: ParquetConfig, title: str) -> Labels:
        """Read the columns of classes; DataError for names and numbers at odds."""
        found = cls()
        for key in ("class_label", "box_labels", "segmentation"):
            if key not in columns:
                if key in config.classes:
                    raise DataError(f"{title}: classes.{key}: there is no column of '{key}'")
                continue
            found._key(key, columns[key], files, config, title)
        return found

    def _key(self, key: str, column: Column, files: Files, config: ParquetConfig, title: str) -> None:
        asked = config.classes.get(key)
        names, count = _asked(key, asked, config.url, title)
        if asked is not None and count and column.names:
            few = ", ".join(clean(name, 40) for name in column.names[:8])
            raise DataError(f"{title}: classes.{key}: a number, and the files name the classes ({few}); leave it out")
        if asked is None:
            names = column.names or _beside(config.url, title)
        if key == "segmentation":
            if names or count:
                self.names[key], self.counts[key] = names, count or len(names)
            return
        values = _values(files, column)
        if key == "class_label":
            raw = list(values)
            self.there = np.fromiter((v is not None and v != -1 for v in raw), dtype=bool, count=len(raw))
            seen = {v for v in raw if v is not None}
        else:
            raw, seen = [], {each for value in values if isinstance(value, list) for each in value if each is not None}
        if not names and not count and seen and all(isinstance(each, str) for each in seen):
            names = tuple(sorted(each for each in seen if len(each) <= MOST_NAME))
            if len(names) > _MOST_TEXTS:
                raise DataError(
                    f"{title}: column '{'.'.join(column.path)}' has {len(names):,} different texts, too many for "
                    f"classes; read another, with dataset.read='{{{key}: COLUMN}}'"
                )
        whole = {each for each in seen if isinstance(each, int) and 0 <= each < MOST_CLASSES}
        if whole and are_numbers(names) and all(str(each) in names for each in whole) and not column.names:
            self.numbered.add(key)
        elif asked is None and not column.names and max(whole, default=-1) >= len(names):
            names, count = (), 1 + max(whole, default=0)  # a list beside the data is about another key
        self.names[key], self.counts[key] = names, count or len(names) or 1
        self._hold(key, whole, asked, title)
        if key == "class_label":
            self.codes[key] = self._coded(key, raw)

    def _hold(self, key: str, whole: Iterable[int], asked: str | None, title: str) -> None:
        top = max(whole, default=-1)
        if asked is not None and key not in self.numbered and top >= self.counts[key]:
            raise DataError(f"{title}: '{key}' goes up to {top}, but classes.{key} says {self.counts[key]} classes")

    def _coded(self, key: str, raw: list[Any]) -> NDArray[np.int64]:
        places = {name: place for place, name in enumerate(self.names[key])}
        count = self.counts[key]

        def code(value: Any) -> int:
            said = self.said(key, value)
            if isinstance(said, str):
                return places.get(said, -1)
            return said if isinstance(said, int) and 0 <= said < count else -1

        return np.fromiter(map(code, raw), dtype=np.int64, count=len(raw))

    def said(self, key: str, value: Any) -> Any:
        """A stored class, as its name if names are numbers."""
        return str(value) if key in self.numbered and isinstance(value, int) else value

    def counted(self, classes: Mapping[str, int]) -> Labels:
        """These with a model's numbers of classes, for keys without names."""
        changed = copy(self)
        own = {k: n for k, n in classes.items() if k in self.counts and not self.names.get(k)}
        changed.counts = {**self.counts, **own}
        return changed


def _values(files: Files, column: Column) -> Iterable[Any]:
    """The stored values of all rows of the files, read piece by piece."""
    for number in range(len(files.shards)):
        for piece in files.cells(number, column.read):
            yield from map(column.value, piece.to_pylist())


def _asked(key: str, asked: str | None, url: str, title: str) -> tuple[tuple[str, ...], int]:
    """The setting's file as names, or its number."""
    if asked is None:
        return (), 0
    if asked.isdecimal() and len(asked) < 10 and int(asked) > 0:
        return (), int(asked)
    place = storage.join(_folder(url), asked)
    if not storage.exists(place):
        raise DataError(f"{title}: classes.{key}: no file {quoted(asked)} beside the data; give a file or a number")
    return names_of(storage.read_bytes(place), f"{title}: {clean(asked, 80)}"), 0


def _beside(url: str, title: str) -> tuple[str, ...]:
    place = storage.join(_folder(url), _CLASSES)
    if storage.protocol(url) in ("http", "https") or not storage.exists(place):
        return ()
    return names_of(storage.read_bytes(place), f"{title}: {_CLASSES}")


def _folder(url: str) -> str:
    first = storage.expand(url)[0]
    return first if storage.is_folder(first) else storage.parent(first)


def highest_in_maps(files: Files, column: Column) -> int:
    """The highest class in the first readable label maps."""
    highest = 0
    for place, value in enumerate(_values(files, column)):
        if place >= _MAPS:
            break
        try:
            labels = decode_labels(value)
        except (DataError, TypeError, ValueError):
            continue
        highest = max(highest, int(labels[(labels != UNLABELED) & (labels < MOST_CLASSES)].max(initial=0)))
    return highest
