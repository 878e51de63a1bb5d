"""Several data sets as one: their common keys, their classes by name, and the share of each. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import DataInfo, Dataset
from ldm_core.contracts.answers import DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.data.buckets import sizes_of
from ldm_core.data.class_names import labels_of
from ldm_core.data.palettes import Rows
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import DataError


@attrs.frozen
class Section:
    """A run of examples drawn in a share of their own: their number, and their `weight`."""

    length: int
    weight: float


def _labels(self: Mixture, key: str) -> NDArray[np.int64]:
    """(N,) the class `key` of each example, -1 where it is not known."""
    own = [labels_of(data, key) for data in self._parts]
    tables = [table.get(key) for table in self._tables]
    own = [
        each if table is None else np.where(each < 0, each, table[each])
        for each, table in zip(own, tables, strict=True)
    ]
    return np.concatenate(own) if self._places is None else np.array([own[n][i] for n, i in self._places])


def _palettes(self: Mixture) -> Mapping[str, Rows]:
    """The colours of all parts, under the mixture's classes; none of a key where one colour is of two classes."""
    found: dict[str, Rows] = {}
    for key in dict.fromkeys(k for data in self._answers for k in data.palettes if k in self.keys):
        rows: dict[tuple[int, int, int], int] = {}
        clash = False
        for data, table in zip(self._answers, self._tables, strict=True):
            for r, g, b, number in data.palettes.get(key, ()):
                own = int(table[key][number]) if key in table and number < len(table[key]) else number
                clash |= rows.setdefault((r, g, b), own) != own
        if not clash:
            found[key] = tuple((*colour, number) for colour, number in rows.items())
    return found


class Mixture:
    """The examples of several data sets, one after the other; `sections` give the shares of the draw.

    `parts`: (label, data set, weight; None = its number of examples). It offers the keys that all of them have in one
    geometry. Classes are matched by name: lists that differ become their union, in the order of first occurrence, and
    labels are renumbered. A key that some lack, or whose classes cannot be matched, is not offered; :meth:`select` of
    it says why. Names of examples get the label in front. `like`: what the training data offers, for held-out data of
    the same numbers. `spread`: examples take turns, so that the first few are of all parts; they have no sections.
    """

    def __init__(
        self, parts: Sequence[tuple[str, Dataset, float | None]], like: DataInfo | None = None, *, spread: bool = False
    ) -> None:
        self._labels = [label for label, _, _ in parts]
        self._parts: list[Any] = [data for _, data, _ in parts]
        self._answers = [of(DatasetAnswers, data) for data in self._parts]
        self._like = like
        lengths = [len(data) for data in self._parts]
        for label, length in zip(self._labels, lengths, strict=True):
            if not length:
                raise DataError(f"the mixture's part '{label}' has no examples; leave it out")
        self._weights = [weight for _, _, weight in parts]
        self._ends = list(accumulate(lengths))
        self._places: NDArray[np.int64] | None = None
        if spread:
            places = np.array([(n, i) for n, length in enumerate(lengths) for i in range(length)])
            self._places = places[np.argsort((places[:, 1] + 0.5) / np.array(lengths)[places[:, 0]], kind="stable")]
        self.lacks: dict[str, str] = {}
        """Keys not offered, with the reasons."""
        self._tables: list[dict[str, Any]] = [{} for _ in parts]
        self._offer()

    # ------------------------------------------------------------------------------------------ what there is

    def _offer(self) -> None:
        keys: dict[str, str] = {}
        classes: dict[str, int] = {}
        names: dict[str, tuple[str, ...]] = {}
        for key in dict.fromkeys(k for data in self._parts for k in data.keys):
            lacking = [n for n, data in zip(self._labels, self._parts, strict=True) if key not in data.keys]
            kinds = sorted({data.keys[key] for data in self._parts if key in data.keys})
            if lacking:
                self.lacks[key] = f"'{lacking[0]}' has none"
            elif len(kinds) > 1:
                self.lacks[key] = f"its geometry is {' here and '.join(kinds)} there"
            elif any(key in data.classes for data in self._parts):
                self._merge(key, classes, names)
            if key not in self.lacks:
                keys[key] = kinds[0]
        self.keys: Mapping[str, str] = keys
        self.classes: Mapping[str, int] = classes
        self.class_names: Mapping[str, tuple[str, ...]] = names

    def _merge(self, key: str, classes: dict[str, int], names: dict[str, tuple[str, ...]]) -> None:
        """Put down the number of classes, their names, and in `_tables` how each part's are renumbered."""
        lists = [tuple(data.class_names.get(key, ())) for data in self._parts]
        counts = [int(data.classes.get(key, 0)) for data in self._parts]
        known = tuple(self._like.class_names.get(key, ())) if self._like is not None else ()
        if all(lists):
            union = tuple(dict.fromkeys([*known, *(name for each in lists for name in each)]))
            for table, each in zip(self._tables, lists, strict=True):
                if each != union[: len(each)]:
                    table[key] = np.array([union.index(name) for name in each], dtype=np.int64)
            classes[key], names[key] = len(union), union
            return
        before = int(self._like.classes.get(key, 0)) if self._like is not None else 0
        if len(set(counts)) > 1 and max(counts) > before:
            told = ", ".join(f"{n} in '{label}'" for n, label in zip(counts, self._labels, strict=True))
            self.lacks[key] = (
                f"{told}, and not all of these classes have names to match them by; name them (classes.json beside the "
                f"data, or dataset.0.classes.{key}=FILE), or give all the same number"
            )
            return
        classes[key] = max(*counts, before)
        if found := known or next((each for each in lists if each), ()):
            names[key] = found

    palettes = property(_palettes)
    labels = _labels

    @property
    def sections(self) -> tuple[Section, ...]:
        """Length and share of each part, in the order of the indices."""
        if self._places is not None:
            return ()
        return self._sections()

    def _sections(self) -> tuple[Section, ...]:
        starts = [0, *self._ends[:-1]]
        rows = zip(starts, self._ends, self._weights, strict=True)
        return tuple(Section(end - start, end - start if weight is None else weight) for start, end, weight in rows)

    @property
    def many_captions(self) -> bool:
        """True if a part has pictures with several captions."""
        return any(data.many_captions for data in self._answers)

    @property
    def max_bad(self) -> float:
        """The largest share of unreadable examples allowed by one of the parts."""
        return max(0.01 if data.max_bad is None else data.max_bad for data in self._answers)

    @property
    def widths(self) -> Mapping[str, int]:
        """Length of the vectors of each key, if all parts say the same."""
        own = [data.widths for data in self._answers]
        return {k: n for k, n in own[0].items() if k in self.keys and all(each.get(k) == n for each in own)}

    def describe(self) -> str:
        """One line: the parts, the number of examples of each, and its share if it is not its size."""
        sections = self._sections()
        total = sum(section.weight for section in sections)
        told = []
        for label, section, weight in zip(self._labels, sections, self._weights, strict=True):
            share = "" if weight is None else f" at {section.weight / total:.1%}"
            told.append(f"{label} ({section.length}{share})")
        line = f"{self._ends[-1]} samples of {', '.join(told)} with {', '.join(self.keys)}"
        return "; ".join(filter(None, [line, self.remarks()]))

    def remarks(self) -> str:
        """Notes on each part's left-out files and oddities; empty if there are none."""
        rows = enumerate((label, data.remarks()) for label, data in zip(self._labels, self._answers, strict=True))
        return "; ".join(f"{label}: {self._numbered(remark, number)}" for number, (label, remark) in rows if remark)

    def _numbered(self, text: str, number: int) -> str:
        """A part's own words, with its settings called as those of data set `number`; of held-out data, not present in
        all, as they are."""
        return re.sub(r"\bdataset\.(?=[a-z])", f"dataset.{number}.", text) if self._places is None else text

    # ---------------------------------------------------------------------------------------------- examples

    def __len__(self) -> int:
        return self._ends[-1]

    def part(self, index: int) -> tuple[int, int]:
        """The number of the part with example `index`, and its index there."""
        index = range(len(self))[index]
        if self._places is not None:
            return int(self._places[index, 0]), int(self._places[index, 1])
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        number, inside = self.part(index)
        try:
            example = self._parts[number][inside]
        except BadExample as error:
            raise BadExample(f"{self._labels[number]}/{error.name}", self._numbered(error.why, number)) from error
        table = self._tables[number]
        out = {key: _renumbered(example[key], table[key]) if key in table else example[key] for key in self.keys}
        if isinstance(out.get("name"), str):
            out["name"] = f"{self._labels[number]}/{out['name']}"
        return out

    def reduced(self, *request: Any) -> Mixture:
        """A view with pictures decoded smaller, if a part can; see ``RecordDataset.reduced``."""
        pairs = zip(self._parts, self._answers, strict=True)
        return self._view([data.reduced(*request) if data.reduced else part for part, data in pairs])

    def image_sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of each picture; zeros if it is not known."""
        own = [sizes_of(data) for data in self._parts]
        return np.concatenate(own) if self._places is None else np.stack([own[n][i] for n, i in self._places])

    @property
    def image_size(self) -> Callable[[int], tuple[int, int]] | None:
        """The size (h, w) of one picture, if all parts can tell."""
        own = [tell for data in self._answers if (tell := data.image_size)]
        if len(own) < len(self._parts):
            return None
        return lambda index: own[self.part(index)[0]](self.part(index)[1])

    def select(self, keys: Iterable[str]) -> Mixture:
        """A view of examples with only `keys`; DataError if not all parts have them."""
        wanted = tuple(dict.fromkeys(keys))
        for key in wanted:
            if key not in self.keys:
                why = self.lacks.get(key, "no part has it")
                raise DataError(f"the mixture has no '{key}': {why} (all have: {', '.join(self.keys)})")
        return self._view([data.select(wanted) for data in self._parts])

    def _view(self, parts: Sequence[Any]) -> Mixture:
        """Class numbers stay those of the whole mixture in every view of it."""
        whole = DataInfo(keys=self.keys, classes=self.classes, class_names=self.class_names)
        rows = list(zip(self._labels, parts, self._weights, strict=True))
        return Mixture(rows, whole, spread=self._places is not None)

    def fingerprint(self) -> str:
        """Hash of the parts' fingerprints, in order. The weights are no part of it: the same examples are there."""
        return self._fingerprint([data.fingerprint() for data in self._parts])

    def former_fingerprint(self) -> str:
        """The hash as 0.1.0 made it; see ``RecordDataset.former_fingerprint``."""
        pairs = zip(self._parts, self._answers, strict=True)
        return self._fingerprint([(data.former_fingerprint or part.fingerprint)() for part, data in pairs])

    def _fingerprint(self, parts: Sequence[str]) -> str:
        tables = [{k: t.tolist() for k, t in sorted(table.items())} for table in self._tables]
        state = [list(parts), tables]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _renumbered(value: Any, table: np.ndarray) -> Any:
    if isinstance(value, np.ndarray):
        inside = value < len(table)  # 255 in a label map stands for no class
        return np.where(inside, table[np.where(inside, value, 0)], value)
    return int(table[value])
