"""Examples of a data set as a run wants them: at one of its sizes, cut and mirrored, unreadable ones replaced."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import get_worker_info

from ldm_core.contracts import DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.data import geometry, sizes
from ldm_core.data.buckets import nearest, sizes_of
from ldm_core.data.class_names import labels_of
from ldm_core.data.records.sources import Captions
from ldm_core.data.unreadable import BadExample, Complete, SkipBad
from ldm_core.errors import DataError
from ldm_core.model.degraded import Degraded
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.settings import DataSettings
from ldm_core.training.feed.order import Arrangement, Place

MAX_BAD = 0.01
"""Share of unreadable examples passed over, if a data set does not say."""
_STORED = "stored size\0"  # of an example not yet fitted; no data set has such a key


class Examples(TorchDataset):
    """Examples of a data set by :class:`Place`, or by index: then at `size`, centred and not mirrored.

    Unreadable examples are passed over and counted by ``SkipBad``, up to the data set's own limit. Up to
    ``settings.keep`` bytes of them stay in memory: fitted, or as decoded if each epoch cuts them anew. Last of
    all `degraded` makes the spoilt picture, and `keys` that the data lacks.
    """

    def __init__(
        self,
        dataset: Any,
        size: Sequence[int],
        settings: DataSettings,
        keys: Iterable[str],
        degraded: Degraded | None = None,
    ) -> None:
        wanted = set(keys)
        own: Mapping[str, str] = {k: kind for k, kind in dataset.keys.items() if k in wanted}
        kinds, told = set(own.values()), of(DatasetAnswers, dataset).image_size is not None
        self._beside = sizes.written(dataset, wanted)
        self._degraded = None if degraded is None else degraded.beside(own, wanted)
        made = {} if self._degraded is None else self._degraded.keys
        self.keys: Mapping[str, str] = {**own, **dict.fromkeys(self._beside, "value"), **made}
        # Boxes move with their picture: they need its shape, also if nobody asked for it; the sizes are of it.
        needed = made or (("boxes" in kinds or (self._beside and not told)) and not kinds & {"image", "map"})
        shape = ["image"] if needed and "image" in dataset.keys else []
        self._fitted_keys = {*self.keys, *(["image"] if made else [])}
        self._settings, self._size = settings, (int(size[-2]), int(size[-1]))
        balance = [settings.balance] if settings.balance else []  # its examples without a class are left out as well
        view = dataset.select(dict.fromkeys([*own, *shape, *balance]))
        if (reduced := of(DatasetAnswers, view).reduced) is not None:
            view = reduced([self._size, *settings.buckets], settings.fit, self._smallest)
        self.dataset = skip_bad(view, self._with_size if self._beside else None)
        self._left: int | None = None
        self._kept: dict[tuple[int, bool, tuple[int, int]] | int, Mapping[str, Any]] = {}

    @property
    def _smallest(self) -> float:
        return self._settings.crop_scale if self._settings.crop == "random" else 1.0

    @cached_property
    def arrangement(self) -> Arrangement:
        """The order of their drawing, and the size of each."""
        return arrange(self.dataset.dataset, self._settings, self._size)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Place | int) -> Mapping[str, Any]:
        example = self._at(Place(0, place, False) if isinstance(place, int) else place)
        if self._degraded is None:
            return example
        seed = self._degraded.seed(*((place,) if isinstance(place, int) else (place.epoch, place.index)))
        made = self._degraded.made(example, seed)
        return {**{key: value for key, value in example.items() if key in self.keys}, **made}

    def _at(self, place: Place) -> Mapping[str, Any]:
        size = place.size or self._size
        key = place.index if place.crop else (place.index, place.flip, size)
        example = self._kept.get(key)
        if example is None:
            example = self.dataset[place.index]
            if not place.crop:
                example = self.fitted(example, place.flip, size)
            self._keep(key, example)
        if place.crop:
            example = self.fitted(example, place.flip, size, place.crop)
        if isinstance(caption := example.get("caption"), Captions):
            return {**example, "caption": caption.texts[place.text % len(caption.texts)]}
        return example

    def __call__(self, place: Place) -> Mapping[str, Any]:
        """The example at `place`, for a loader."""
        return self[place]

    def _with_size(self, index: int, example: Mapping[str, Any]) -> Mapping[str, Any]:
        """An example as it is stored, and the size of its picture; BadExample if its header does not say it."""
        drawn = [k for k, kind in self.dataset.keys.items() if kind in ("image", "map") and k in example]
        if drawn:
            return {**example, _STORED: geometry.stored_size(example[drawn[0]])}
        tell = of(DatasetAnswers, self.dataset.dataset).image_size
        if tell is None:
            raise DataError(
                f"a conditioner reads '{self._beside[0]}', which is made of the size of a picture, and these data have "
                f"neither pictures nor image_size(index); give them one, or examples with '{self._beside[0]}' itself"
            )
        size = tell(index)
        if not all(size):
            raise BadExample(
                self._called(index),
                f"its picture's header does not say its size, of which '{self._beside[0]}' is made: it is cut short, "
                "or no picture; save it anew",
            )
        return {**example, _STORED: size}

    def _called(self, index: int) -> str:
        """The name of an example for a message, if the data have names."""
        with suppress(DataError, KeyError):
            return str(self.dataset.dataset.select(["name"])[index]["name"])
        return f"example {index}"

    def _keep(self, key: Any, example: Mapping[str, Any]) -> None:
        if self._left is None:  # each worker keeps its own
            worker = get_worker_info()
            self._left = self._settings.keep // (1 if worker is None else worker.num_workers)
        if self._left <= 0:
            return
        cost = sum(map(_cost, example.values())) + 400
        if cost <= self._left:
            self._left -= cost
            self._kept[key] = example

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_left": None, "_kept": {}}

    def fitted(
        self, example: Mapping[str, Any], flip: bool = False, size: Sequence[int] | None = None, crop: int = 0
    ) -> Mapping[str, Any]:
        """`example` at `size` (none: the recipe's), mirrored with `flip`, cut at random by the seed `crop` if not 0."""
        cut = geometry.Cut.drawn(crop, self._smallest) if crop else None
        target = self._size if size is None else (int(size[-2]), int(size[-1]))
        moved = geometry.fit(example, self.dataset.keys, target, self._settings.fit, flip, cut)
        moved.update(sizes.own_sizes(moved))
        if self._beside:  # by the stored size, however small the picture was decoded, or whether it was at all
            step = geometry.plan(example[_STORED], target, self._settings.fit, cut)
            moved = {**sizes.sizes_of(step, flip), **moved}
        return {k: v for k, v in moved.items() if k in self._fitted_keys}

    def size_of(self, index: int) -> tuple[int, int]:
        """The (h, w) of the bucket of example `index`; the recipe's size without buckets."""
        shapes = self.arrangement.shapes
        return self._size if shapes is None else self.arrangement.sizes[int(shapes[range(len(self))[index]])]

    def first(self, count: int) -> list[Mapping[str, Any]]:
        """The first `count` examples, or all if there are fewer."""
        return [self[i] for i in range(min(count, len(self)))]


def paired(dataset: Any, recipe: Recipe) -> Any:
    """The training data of a model: examples with an image and all inputs of the conditioners, and with the class by
    which they are balanced."""
    balance = recipe.data.balance
    return sizes.paired(dataset, [*recipe.asked(dataset.keys), *([balance] if balance else [])])


def skip_bad(dataset: Any, complete: Complete | None = None) -> SkipBad:
    """`dataset` without its unreadable examples, up to its own limit; see :class:`SkipBad`."""
    limit = of(DatasetAnswers, dataset).max_bad
    return SkipBad(dataset, MAX_BAD if limit is None else limit, complete)


def _cost(value: Any) -> int:
    """The memory of a value, about."""
    if hasattr(value, "getbands"):
        return int(np.prod(value.size)) * (1 if value.mode == "L" else 4)
    return value.nbytes if isinstance(value, np.ndarray) else sys.getsizeof(value)


def arrange(dataset: Any, settings: DataSettings, size: Sequence[int]) -> Arrangement:
    """Say how the examples of `dataset` are drawn: a mixture's shares, mirroring, cuts, and each one's size of the
    run's sizes (`size` and the buckets)."""
    answers = of(DatasetAnswers, dataset)
    sections = tuple((each.length, each.weight) for each in answers.sections)
    sizes = list(dict.fromkeys([(int(size[-2]), int(size[-1])), *settings.buckets]))
    many = len(sizes) > 1
    return Arrangement(
        len(dataset),
        sections=sections,
        flip=settings.flip,
        crop=settings.crop == "random",
        captions=answers.many_captions and "caption" in dataset.keys,
        shapes=nearest(sizes_of(dataset), sizes) if many else None,
        sizes=sizes if many else (),
        groups=balanced(dataset, settings.balance) if settings.balance else None,
    )


def balanced(dataset: Any, key: str) -> NDArray[np.int64]:
    """(N,) the class `key` of each example, by which they are balanced; one without (it cannot be read) counts among
    the most frequent class. DataError if no example has one."""
    labels = labels_of(dataset, key)
    known = labels[labels >= 0]
    if not len(known):
        raise DataError(f"data.balance: no example's '{key}' can be read; leave data.balance out, or see to the data")
    return np.where(labels < 0, np.bincount(known).argmax(), labels)


def balance_in_words(groups: NDArray[Any], key: str) -> str:
    """A line on the classes that are drawn equally often."""
    counts = np.unique(groups, return_counts=True)[1]
    return f"balanced by {key}: {len(counts)} classes of {counts.min():,} to {counts.max():,} examples, drawn equally"
