"""The classes of stored data: their names and number by key, and the class of each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.data.class_names import are_numbers
from ldm_core.data.records.sources import MOST_CLASSES, MOST_NAME, NO_VALUE, class_of, read_names
from ldm_core.errors import DataError, clean

if TYPE_CHECKING:
    from ldm_core.data.records.config import ReadingConfig
    from ldm_core.data.records.store import Store

KEYS = ("class_label", "box_labels", "segmentation")


@attrs.define
class Classes:
    """By key: `names` and `counts` of the classes. `numbered`: keys whose classes are called by numbers, and are given
    by their names. `labels`: the class label of each sample, as far as it is told without opening more; -1 else."""

    names: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    counts: dict[str, int] = attrs.field(factory=dict)
    numbered: set[str] = attrs.field(factory=set)
    labels: NDArray[np.int64] | None = None

    def said(self, key: str, value: Any) -> Any:
        """A stored label, or a list of them, as names where classes are called by numbers."""
        if key not in self.numbered:
            return value
        if isinstance(value, list):
            return [self.said(key, each) for each in value]
        return str(value) if _is_class(value) else value

    def label_all(self, raw: Sequence[Any]) -> None:
        """Note the class label of each sample, from its stored form."""
        names, count = self.names["class_label"], self.counts["class_label"]
        known: dict[Any, int] = {}
        for value in raw:
            if value is not NO_VALUE and value is not None and isinstance(value, int | str) and value not in known:
                try:
                    known[value] = class_of(self.said("class_label", value), names, count)
                except ValueError:
                    known[value] = -1
        found = (known.get(v, -1) if isinstance(v, int | str) else -1 for v in raw)
        self.labels = np.fromiter(found, dtype=np.int64, count=len(raw))


def count_classes(
    store: Store,
    config: ReadingConfig,
    raw: Mapping[str, Sequence[Any]],
    known: Mapping[str, tuple[str, ...]],
    largest: Callable[[str], int],
) -> Classes:
    """The classes of the keys in `raw`, which holds the stored values of all samples (NO_VALUE: none). `known`: names
    that the data's own files say; `largest(key)` looks for the highest class of label maps."""
    found = Classes()
    main = next((k for k in ("segmentation", "box_labels", "class_label") if k in raw), None)
    for key in KEYS:
        if key not in raw:
            continue
        values = [value for value in raw[key] if value is not NO_VALUE]
        names, count = read_names(store, key, config.classes.get(key), key == main and key not in known)
        labels = [label for value in values for label in (value if isinstance(value, list) else [value])]
        if count and (own := known.get(key) or _names(labels)):
            raise DataError(_named(f"{store.title}: classes.{key}={count}", own))
        if not names and not count:
            names = known.get(key, ())
        # All text: these are names. Text among numbers is a mistake in those samples, found on reading.
        if not names and not count and labels and all(isinstance(label, str) for label in labels):
            names = tuple(sorted({label for label in labels if len(label) <= MOST_NAME}))
        if not count and not names:
            count = 1 + (largest(key) if key == "segmentation" else max((n for n in labels if _is_class(n)), default=0))
        found.names[key], found.counts[key] = names, count or len(names)
        numbers = {label for label in labels if _is_class(label)}
        if key == "box_labels" and key in known:  # annotations hand over indices, though a class may be called 1
            continue
        _hold(found, key, numbers, store.title, key in config.classes)
    if "class_label" in raw:
        found.label_all(raw["class_label"])
    return found


def _hold(found: Classes, key: str, numbers: set[int], title: str, asked: bool) -> None:
    """Hold the classes that occur as `numbers` to those that are known."""
    names = found.names[key]
    if numbers and are_numbers(names) and all(str(number) in names for number in numbers):
        found.numbered.add(key)
        return
    top = max(numbers, default=-1)
    if top < found.counts[key]:
        return
    if asked:
        raise DataError(f"{title}: '{key}' goes up to {top}, but classes.{key} says {found.counts[key]} classes")
    found.names[key], found.counts[key] = (), top + 1  # the list beside the data is about another key


def _names(labels: Sequence[Any]) -> list[str]:
    """The classes if all are called by names; none if one is told by a number, of which there may be so many."""
    if any(not isinstance(label, str) or label.removeprefix("-").isdecimal() for label in labels):
        return []
    return sorted(set(labels))


def _named(setting: str, names: Sequence[str]) -> str:
    listed = ", ".join(clean(name, 40) for name in names[:8]) + (", ..." if len(names) > 8 else "")
    return (
        f"{setting}: a number, and the data names its classes ({listed}); leave it out, or give a file that lists them"
    )


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and label < MOST_CLASSES
