"""Classes, boxes and label maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.data.palettes import UNLABELED
from ldm_plugin_datasheet.facts import Area, Boxes, ClassCount, Classes, Maps, Span

_ABSENT = 20  # classes without an example that are named
_COUNTED = 1 << 16  # a map's classes below this are counted at once


def classes(key: str, labels: Counter[int], of: int, names: Sequence[str]) -> Classes:
    """Classes by how often they were seen; `of` is their number, `names` are theirs if they have some."""
    of = max(of, max(labels, default=-1) + 1)
    absent = [n for n in range(min(of, 10 * _ABSENT + len(labels))) if n not in labels][:_ABSENT]
    counts = [n for n in labels.values() if n]
    return Classes(
        key=key,
        of=of,
        labels=sum(counts),
        seen=[ClassCount(n, name_of(n, names), labels[n]) for n in sorted(labels)],
        unseen=of - len(labels),
        absent=[name_of(n, names) or unnamed(n) for n in absent],
        imbalance=round(max(counts) / min(counts), 3) if counts else 1.0,
    )


def name_of(number: int, names: Sequence[str]) -> str:
    """The class's name; empty without one."""
    return names[number] if 0 <= number < len(names) else ""


def unnamed(number: int) -> str:
    """A class without a name, in words."""
    return f"class {number}"


def boxes(rows: Iterable[Mapping[str, Any]], of: int, names: Sequence[str]) -> Boxes:
    """The boxes of pictures, one row a picture with ``boxes`` and, if there are some, ``box_labels``."""
    many: list[int] = []
    found: list[NDArray[Any]] = []
    labels: Counter[int] = Counter()
    labelled = False
    for row in rows:
        own = np.asarray(row["boxes"], dtype=np.float64).reshape(-1, 4)
        many.append(len(own))
        found.append(own[:, 2:])
        if "box_labels" in row:
            labelled = True
            labels.update(np.asarray(row["box_labels"]).astype(np.int64).tolist())
    sides = np.concatenate(found) if found else np.zeros((0, 2))
    areas = sides.prod(axis=1)
    return Boxes(
        pictures=len(many),
        boxes=len(sides),
        without=many.count(0),
        in_picture=Span.of(many),
        width=Span.of(sides[:, 0]),
        height=Span.of(sides[:, 1]),
        side=Span.of(np.sqrt(np.maximum(areas, 0))),
        flat=int((areas <= 0).sum()),
        classes=classes("box_labels", labels, of, names) if labelled else None,
    )


def maps(key: str, values: Iterable[NDArray[Any]], of: int, names: Sequence[str]) -> Maps:
    """Label maps with `of` classes; with 0, maps without classes, such as masks."""
    shares: Counter[int] = Counter()
    holding: Counter[int] = Counter()
    covered: list[float] = []
    unlabeled, count = 0.0, 0
    for value in values:
        count += 1
        flat = np.asarray(value).ravel()
        covered.append(float((flat != 0).mean()) if flat.size else 0.0)
        if not of:
            continue
        numbers, pixels = _counted(flat)
        for number, many in zip(numbers.tolist(), pixels.tolist(), strict=True):
            if number == UNLABELED >= of:
                unlabeled += many / flat.size
            else:
                shares[number] += many / flat.size
                holding[number] += 1
    return Maps(
        key=key,
        maps=count,
        of=max(of, max(shares, default=-1) + 1) if of else 0,
        classes=[Area(n, name_of(n, names), round(shares[n] / count, 6), holding[n]) for n in sorted(shares)],
        unlabeled=round(unlabeled / max(1, count), 6),
        covered=None if of else Span.of(covered),
    )


def _counted(flat: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The numbers in `flat` and how often each is there."""
    if flat.size and flat.min() >= 0 and flat.max() < _COUNTED:
        pixels = np.bincount(flat)
        numbers = np.flatnonzero(pixels)
        return numbers, pixels[numbers]
    return np.unique(flat, return_counts=True)
