"""A caller's own data, a list of examples or a map-style data set, as a data set of a run.

All of it is read once before the training: its keys, classes and sizes follow from what is there, and its fingerprint
is a hash of the contents, by which a resumed run knows its data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sized
from copy import copy
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.api import examples
from ldm_core.catalog import Component
from ldm_core.config.fields import field
from ldm_core.contracts import Dataset, DatasetConfig, Site
from ldm_core.data.geometry import shape_of
from ldm_core.data.images import to_channels
from ldm_core.data.palettes import UNLABELED
from ldm_core.errors import ConfigError, DataError, clean

NAME = "own_data"
_CLASSES = ("class_label", "box_labels")
_READ_AGAIN = 16
"""Number of reads that look for random transforms; of fewer examples each is read several times."""


@attrs.frozen(kw_only=True)
class OwnDataConfig(DatasetConfig):
    """Examples handed over in Python: nothing but their number and fingerprint can be written down."""

    examples: int = field(0, "number of examples", minimum=0)
    fingerprint: str = attrs.field(default="", metadata={"help": "hash of their contents"})


def component_of(data: Any) -> tuple[Component, dict[str, Any]]:
    """Read all of `data`: the component ``own_data`` of a run, and its values in a recipe.

    A ready :class:`Dataset` is taken as it is. Raises ConfigError for what is no data set, DataError naming the first
    example that is none.
    """
    if not isinstance(data, Sized):
        raise ConfigError(
            f"data: expected a list of examples, a map-style torch.utils.data.Dataset, or a path or URL, got "
            f"{type(data).__name__}, which has no length; make a list of it: data=list(...)"
        )
    if not len(data):
        raise ConfigError("data: no examples")
    given = data if isinstance(data, Dataset) else OwnData(data)

    def factory(config: OwnDataConfig, site: Site) -> Any:
        if config.fingerprint and config.fingerprint != given.fingerprint():
            raise ConfigError("dataset.fingerprint: the examples given are others than the recipe's")
        return given.at(site.channels) if isinstance(given, OwnData) else given

    summary = "examples handed over in Python"
    component = Component(kind="dataset", name=NAME, config=OwnDataConfig, factory=factory, summary=summary)
    return component, {"use": NAME, "examples": len(given), "fingerprint": given.fingerprint()}


class OwnData:
    """A caller's own examples by the contract :class:`~ldm_core.contracts.Dataset`: pictures as they are, their
    channels as asked for by :meth:`at`; classes that are called by names are numbered in the order of the names."""

    def __init__(self, data: Any) -> None:
        self._data, self._channels = data, 0
        first = examples.read(data, 0)
        size = shape_of(first["image"])
        self.keys: Mapping[str, str] = {k: examples.geometry_of(k, v, size) for k, v in first.items()}
        self.widths = {"embedding": int(first["embedding"].shape[-1])} if "embedding" in first else {}
        self._sizes = np.zeros((len(data), 2), dtype=np.int64)
        labels: dict[str, set[Any]] = {key: set() for key in (*_CLASSES, "segmentation") if key in self.keys}
        self._print = self._looked_over(first, labels)
        self.class_names: Mapping[str, tuple[str, ...]] = {key: _names(key, found) for key, found in labels.items()}
        self.classes: Mapping[str, int] = {
            key: len(self.class_names[key]) or max(found, default=-1) + 1 for key, found in labels.items()
        }

    def _looked_over(self, first: Mapping[str, Any], labels: Mapping[str, set[Any]]) -> str:
        """Read every example once, and a spread of them again; the hash of all."""
        whole = hashlib.sha256()
        spread = np.linspace(0, len(self._data) - 1, _READ_AGAIN).round().astype(int).tolist()
        kept: dict[int, bytes] = {}
        for index in range(len(self._data)):
            example = examples.read(self._data, index) if index else first
            if problem := self._misfit(example):
                raise DataError(f"data[{index}]: {problem}")
            self._sizes[index] = shape_of(example["image"])
            for key, found in labels.items():
                value = example[key]
                found.update(np.unique(value).tolist() if isinstance(value, np.ndarray) else _listed(value))
            whole.update(digest := _digest(example))
            if index in spread:
                kept[index] = digest
        for found in (labels["segmentation"],) if "segmentation" in labels else ():
            found.discard(UNLABELED)
        for index in spread:
            if _digest(examples.read(self._data, index)) != kept[index]:
                raise DataError(
                    f"data[{index}] is another example each time it is read, so that a run could not go on from a "
                    "checkpoint; leave random transforms out (the core mirrors and cuts: data.flip, data.crop)"
                )
        return whole.hexdigest()

    def _misfit(self, example: Mapping[str, Any]) -> str:
        """A line on an example that is unlike the first one; "" for one that is like it."""
        if example.keys() != self.keys.keys():
            mine, theirs = ", ".join(sorted(example)), ", ".join(sorted(self.keys))
            return f"has {mine}, and data[0] has {theirs}; give all of them the same"
        size = shape_of(example["image"])
        for key, kind in self.keys.items():
            value = example[key]
            if kind in ("image", "map") and (not isinstance(value, np.ndarray) or shape_of(value) != size):
                return f"'{key}' is {shape_of(value)} beside a picture of {size} (height, width); they must match"
            if kind == "per_box" and len(value) != len(example.get("boxes", value)):
                return f"'{key}' has {len(value)} values beside {len(example['boxes'])} boxes; give one a box"
            if key in self.widths and value.shape[-1] != self.widths[key]:
                return f"'{key}' has {value.shape[-1]} numbers, and that of data[0] {self.widths[key]}"
        return ""

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        example = examples.read(self._data, range(len(self))[index])
        if lacking := [key for key in self.keys if key not in example]:
            raise DataError(f"data[{index}] had '{lacking[0]}' when it was looked at, and has it no more")
        return {key: self._value(key, example[key]) for key in self.keys}

    def _value(self, key: str, value: Any) -> Any:
        if self.keys[key] == "image":
            return to_channels(value, self._channels) if self._channels else value
        if names := self.class_names.get(key):
            numbers = [names.index(name) for name in _listed(value)]
            return numbers[0] if key == "class_label" else np.array(numbers, dtype=np.int64)
        return value.copy() if isinstance(value, np.ndarray) else value

    def at(self, channels: int) -> OwnData:
        """The same with pictures of `channels` channels."""
        made = copy(self)
        made._channels = channels
        return made

    def select(self, keys: Iterable[str]) -> OwnData:
        """A view whose examples hold only `keys`; DataError for one that they lack."""
        wanted = tuple(dict.fromkeys(keys))
        if lacking := [key for key in wanted if key not in self.keys]:
            raise DataError(f"the examples given have no '{lacking[0]}' (they have: {', '.join(self.keys)})")
        made = copy(self)
        made.keys = {key: self.keys[key] for key in wanted}
        made.widths = {key: width for key, width in self.widths.items() if key in wanted}
        made.classes = {key: count for key, count in self.classes.items() if key in wanted}
        made.class_names = {key: names for key, names in self.class_names.items() if key in wanted}
        return made

    def image_sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of each picture."""
        return self._sizes

    def describe(self) -> str:
        """One line: the number of the examples and their keys."""
        return f"{len(self):,} examples handed over in Python, with {', '.join(self.keys)}"

    def fingerprint(self) -> str:
        """A hash of all contents as they were read before the run."""
        return self._print


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple | np.ndarray) else (value,)


def _names(key: str, found: set[Any]) -> tuple[str, ...]:
    """The names of classes that are called by names, sorted; none for numbers. DataError for both."""
    texts = sorted(each for each in found if isinstance(each, str))
    if texts and len(texts) < len(found):
        raise DataError(f"data: '{key}' is a name in some examples ('{clean(texts[0], 60)}') and a number in others")
    return tuple(texts)


def _digest(example: Mapping[str, Any]) -> bytes:
    """The hash of one example."""
    made = hashlib.sha256()
    for key in sorted(example):
        value = example[key]
        if isinstance(value, np.ndarray):
            made.update(json.dumps([key, value.dtype.str, value.shape]).encode())
            made.update(np.ascontiguousarray(value).tobytes())
        else:
            plain = value.item() if isinstance(value, np.generic) else value
            made.update(json.dumps([key, plain]).encode())
    return made.digest()
