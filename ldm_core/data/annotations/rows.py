"""Annotations as boxes of a data set's samples, held to its pictures and its classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
import numpy as np

from ldm_core.contracts import Annotated
from ldm_core.data.annotations.files import Chosen
from ldm_core.data.annotations.pictures import Names
from ldm_core.data.records.folder_layout import LeftOut
from ldm_core.data.records.sources import read_names
from ldm_core.data.records.store import Boxes, Sample, Store
from ldm_core.errors import DataError, clean, quoted, suggest

if TYPE_CHECKING:
    from ldm_core.data.records.config import ReadingConfig

_KEY = "box_labels"


@attrs.define
class Found:
    """The boxes of a data set's samples: `samples` with them, `class_names` () where classes have numbers alone, a
    `digest` of all that was taken."""

    samples: list[Sample]
    class_names: tuple[str, ...]
    digest: str


class Annotatable(Store, Protocol):
    """A store with a count of files outside of its data."""

    left_out: LeftOut


def apply(chosen: Chosen, store: Annotatable, config: ReadingConfig, paths: Sequence[str], root: str = "") -> Found:
    """The samples of `store`, whose pictures have `paths` in the folder `root`, with their boxes.

    Classes are those listed by the setting `classes`, else the files' own, else those of ``classes.json`` if all are
    there, else sorted. What is no part of the data is counted; with ``missing: skip`` boxes of unknown classes too.
    DataError naming the first: boxes that are none, a class that is unknown, no picture of those that are annotated.
    """
    samples, left_out = store.samples, store.left_out
    pictures, boxes = Names(paths, root), dict[int, Boxes]()
    missed: dict[str, str] = {}
    found = chosen.format.read(chosen.files, chosen.names)
    for row in found.rows:
        places = pictures.find(row.picture, row.place or chosen.shown)
        if not places:
            missed.setdefault(row.picture, row.place or chosen.shown)
        for place in places:
            boxes[place] = _joined(boxes.get(place), _boxes(row, chosen))
    _refuse_none(chosen, boxes, missed, paths)
    for kind, count in found.left_out.items():
        left_out.add(kind, chosen.shown, count)
    if missed:
        left_out.add("annotated picture that is not there", next(iter(missed)), len(missed))
    asked, count = read_names(store, _KEY, config.classes.get(_KEY), False)
    classes = asked or tuple(found.class_names) or _listed(boxes, store)
    known = _Known(classes, len(classes) or count)
    skip = config.missing == "skip"
    boxes = {place: _of_known(each, known, skip, left_out) for place, each in boxes.items()}
    made = [attrs.evolve(sample, boxes=boxes.get(place)) for place, sample in enumerate(samples)]
    state = hashlib.sha256(json.dumps([chosen.use, chosen.settings, classes], sort_keys=True).encode())
    for place, path in enumerate(paths):
        if (mine := boxes.get(place)) is not None:
            state.update(json.dumps([path, mine.labels, mine.units, mine.size]).encode())
            state.update(mine.corners.tobytes())
    return Found(made, classes, state.hexdigest())


def _boxes(row: Annotated, chosen: Chosen) -> Boxes:
    where = row.place or chosen.shown
    try:
        corners = np.array(row.boxes, dtype=np.float64).reshape(-1, 4) if len(row.boxes) else np.zeros((0, 4))
        good = bool(np.isfinite(corners).all()) and len(corners) == len(row.boxes)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise DataError(f"{where}: boxes of {quoted(row.picture, 80)} are not all four finite numbers")
    if len(row.labels) != len(corners):
        raise DataError(f"{where}: {len(row.labels)} classes for {len(corners)} boxes of {quoted(row.picture, 80)}")
    return Boxes(corners, tuple(row.labels), row.units, row.size, where)


def _joined(before: Boxes | None, more: Boxes) -> Boxes:
    if before is None:
        return more
    if (before.units, before.size) != (more.units, more.size):
        raise DataError(f"{more.place}: measures a picture's boxes in another way than {before.place} does")
    return attrs.evolve(
        before, corners=np.concatenate([before.corners, more.corners]), labels=(*before.labels, *more.labels)
    )


def _refuse_none(chosen: Chosen, boxes: Mapping[int, Boxes], missed: Mapping[str, str], paths: Sequence[str]) -> None:
    if boxes:
        return
    if not missed:
        raise DataError(f"{chosen.shown}: annotates no picture")
    first = next(iter(missed))
    raise DataError(
        f"{missed[first]}: none of the {len(missed):,} annotated pictures is in {chosen.title}: "
        f"{quoted(first, 120)} is not, the data has {quoted(paths[0] if paths else '', 120)}; check the data's URL and "
        "dataset.annotations"
    )


def _listed(boxes: Mapping[int, Boxes], store: Store) -> tuple[str, ...]:
    """The names that occur, in the order of ``classes.json`` if it has all of them; () for numbers."""
    labels = {label for each in boxes.values() for label in each.labels}
    names = [label for label in labels if isinstance(label, str)]
    if len(names) < len(labels):
        return ()
    listed, _ = read_names(store, _KEY, None, True)
    return listed if labels <= set(listed) else tuple(sorted(names))


@attrs.frozen
class _Known:
    """The classes of boxes: their `names`, or numbers alone; there are `count`, 0 where nothing says how many."""

    names: Sequence[str]
    count: int

    def has(self, label: object) -> bool:
        """True for a name, or an index."""
        if isinstance(label, str):
            return label in self.names
        return isinstance(label, int) and not isinstance(label, bool) and 0 <= label < (self.count or label + 1)

    def refusal(self, label: object, where: str) -> str:
        """A line on a class that is none of them."""
        listed = ", ".join(clean(name, 40) for name in self.names[:12]) + (", ..." if len(self.names) > 12 else "")
        numbers = f"numbers from 0 {f'to {self.count - 1}' if self.count else 'on'}"
        return (
            f"{where}: no class {quoted(label, 60)}{suggest(str(label)[:80], self.names)} (known: "
            f"{listed or numbers}); correct it, or leave such boxes out with dataset.missing=skip"
        )


def _of_known(boxes: Boxes, known: _Known, skip: bool, left_out: LeftOut) -> Boxes:
    """The boxes whose classes are known."""
    keep = [number for number, label in enumerate(boxes.labels) if known.has(label)]
    for label in boxes.labels if len(keep) < len(boxes.labels) else ():
        if not known.has(label):
            if not skip:
                raise DataError(known.refusal(label, boxes.place))
            left_out.add("box of an unknown class", clean(label, 60))
    if len(keep) == len(boxes.labels):
        return boxes
    return attrs.evolve(boxes, corners=boxes.corners[keep], labels=tuple(boxes.labels[i] for i in keep))
