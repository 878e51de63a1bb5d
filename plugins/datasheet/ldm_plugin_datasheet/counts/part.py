"""All looks at one data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ldm_core.contracts import Dataset
from ldm_core.errors import DataError, clean
from ldm_plugin_datasheet.amounts import EVERYTHING, Wanted
from ldm_plugin_datasheet.counts import captions, labels, pictures
from ldm_plugin_datasheet.examples import Examples, Tell, silent
from ldm_plugin_datasheet.facts import Boxes, Classes, Key, Looked, Maps, Part, Unreadable

_VALUES = ("caption", "class_label", "boxes", "box_labels")
_SHOWN = 80  # characters of a value that stands for its key


def part(dataset: Dataset, wanted: Wanted, *, title: str, use: str, tell: Tell = silent) -> Part:
    """Look at a data set. DataError if it has no pictures, or none readable among those looked at."""
    if "image" not in dataset.keys:
        raise DataError(f"{title}: has no pictures, only {', '.join(dataset.keys) or 'nothing'}")
    examples = Examples(dataset, wanted.seed, tell)
    found = pictures.pictures(examples, wanted)
    if not found.decoded:
        name, why = next(iter(examples.bad.items()), ("", "nothing was read"))
        raise DataError(
            f"{title}: none of the {found.headers} pictures looked at can be read; first: {clean(name)}: {clean(why)}"
        )
    values = _Values(examples, wanted.amounts.values)
    masks = list(_maps(examples, wanted.amounts.maps))
    whole = wanted.amounts == EVERYTHING
    looked = Looked(
        of=len(dataset),
        headers=found.headers,
        values=values.looked,
        pictures=found.decoded,
        maps=max((each.maps for each in masks), default=0),
        whole=whole,
    )
    return Part(
        title=title,
        use=use,
        examples=len(dataset),
        held_out=None,
        looked=looked,
        keys=list(_keys(examples)),
        lacks=dict(examples.answers.lacks),
        pictures=found,
        captions=captions.captions(values.of("caption")) if values.having("caption") else None,
        classes=values.classes(),
        boxes=values.boxes(),
        maps=masks,
        unreadable=[Unreadable(name, why) for name, why in examples.bad.items()],
        remarks=examples.answers.remarks(),
    )


class _Values:
    """Captions, classes and boxes of some examples: read together if all have them, else key by key."""

    def __init__(self, examples: Examples, most: int) -> None:
        self._examples, self._most = examples, most
        keys = [key for key in _VALUES if key in examples.keys and examples.have(key)]
        self._together = examples.whole(keys)
        self._rows: dict[str, list[Mapping[str, Any]]] = {key: [] for key in keys}
        self.looked = 0
        if self._together:
            self._read_together()
        for key in keys:
            if key not in self._together:
                self._rows[key] = list(self._read(key))
                self.looked = max(self.looked, len(self._rows[key]))

    def _read_together(self) -> None:
        examples, keys = self._examples, self._together
        view = examples.view(*keys)
        indices = np.sort(examples.some(view, self._most))
        self.looked = len(indices)
        for done, index in enumerate(indices, 1):
            row = examples.read(view, index)
            if row is None and len(keys) > 1:  # the others of its keys may read
                singly = [examples.read(examples.view(key), index) for key in keys]
                row = {key: value for each in singly for key, value in (each or {}).items()}
            for key in row or ():
                self._rows[key].append(row or {})
            examples.tell("captions and labels", done, len(indices))

    def _read(self, key: str) -> Iterator[Mapping[str, Any]]:
        keys = ("boxes", "box_labels") if key == "boxes" and "box_labels" in self._examples.keys else (key,)
        view = self._examples.view(*keys) or self._examples.view(key)
        yield from self._examples.each(key.replace("_", " "), view, self._examples.some(view, self._most))

    def having(self, key: str) -> bool:
        """True if examples offer `key`."""
        return key in self._rows

    def of(self, key: str) -> Iterator[Any]:
        """The values of `key`."""
        return (row[key] for row in self._rows[key])

    def classes(self) -> list[Classes]:
        """Classes of pictures."""
        if not self.having("class_label"):
            return []
        return [labels.classes("class_label", Counter(map(int, self.of("class_label"))), *self._known("class_label"))]

    def boxes(self) -> Boxes | None:
        """Boxes; None if there are none."""
        return labels.boxes(self._rows["boxes"], *self._known("box_labels")) if self.having("boxes") else None

    def _known(self, key: str) -> tuple[int, Sequence[str]]:
        dataset = self._examples.dataset
        return int(dataset.classes.get(key, 0)), dataset.class_names.get(key, ())


def _maps(examples: Examples, most: int) -> Iterator[Maps]:
    """Label maps and masks, key by key."""
    for key, kind in examples.keys.items():
        view = examples.view(key) if kind == "map" else None
        if view is None:
            continue
        values = (example[key] for example in examples.each(f"maps ({key})", view, examples.some(view, most)))
        dataset = examples.dataset
        yield labels.maps(key, values, int(dataset.classes.get(key, 0)), dataset.class_names.get(key, ()))


def _keys(examples: Examples) -> Iterator[Key]:
    """Each key with its geometry, the number of examples with it, and a word on its content."""
    known = {*_VALUES, "image", "name"}
    for key, kind in examples.keys.items():
        have = examples.have(key)
        about = "" if have else examples.why.get(key, "")
        if have and key not in known and kind != "map":
            example = examples.read(examples.view(key), 0)
            about = "" if example is None else _shown(example[key])
        yield Key(key, kind, have, about)


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"{value.dtype} {value.shape}"
    return clean(f"such as {value}", _SHOWN)
