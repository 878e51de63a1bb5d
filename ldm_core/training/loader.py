"""Examples in order: what a step trains on is a function of (seed, step), not of processes or of the past."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ldm_core import geometry
from ldm_core.batch import collate, to_device
from ldm_core.builtin.reading import SkipBad
from ldm_core.contracts import Batch
from ldm_core.settings import DataSettings
from ldm_core.training.order import Arrangement, Order, Place
from ldm_core.training.world import World

MAX_BAD = 0.01
"""Share of unreadable examples that is passed over, where a data set does not say."""


class Examples(TorchDataset):
    """Examples of a data set at the recipe's size, by :class:`Place` or index; small ones stay in memory.

    Unreadable examples are passed over and counted by ``SkipBad``, up to the data set's own limit.
    """

    def __init__(self, dataset: Any, size: Sequence[int], settings: DataSettings, keys: Sequence[str]) -> None:
        self.keys: Mapping[str, str] = {k: kind for k, kind in dataset.keys.items() if k in keys}
        kinds = set(self.keys.values())
        # Boxes move with the picture that they lie on: they need its shape, also where nobody asked for it.
        shape = ["image"] if "boxes" in kinds and not kinds & {"image", "map"} and "image" in dataset.keys else []
        view = dataset.select([*self.keys, *shape])
        self.arrangement = arrange(view, settings)
        self.dataset = SkipBad(view, getattr(dataset, "max_bad", MAX_BAD))
        self._size, self._fit, self._left = tuple(size), settings.fit, settings.keep
        self._kept: dict[tuple[int, bool], Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Place | int) -> Mapping[str, Any]:
        index, flip = (place, False) if isinstance(place, int) else (place.index, place.flip)
        key = (index, flip)
        if key in self._kept:
            return self._kept[key]
        example = self.fitted(self.dataset[index], flip)
        cost = sum(v.nbytes if isinstance(v, np.ndarray) else sys.getsizeof(v) for v in example.values()) + 400
        if cost <= self._left:
            self._left -= cost
            self._kept[key] = example
        return example

    def fitted(self, example: Mapping[str, Any], flip: bool = False) -> Mapping[str, Any]:
        """`example` at the recipe's size."""
        moved = geometry.fit(example, self.dataset.keys, self._size, self._fit, flip)
        return {k: v for k, v in moved.items() if k in self.keys}

    def first(self, count: int) -> list[Mapping[str, Any]]:
        """The first `count` examples, or all where there are fewer."""
        return [self[i] for i in range(min(count, len(self)))]


def arrange(dataset: Any, settings: DataSettings) -> Arrangement:
    """How the examples of `dataset` are drawn: the shares of a mixture's parts, mirroring."""
    sections = tuple((each.length, each.weight) for each in getattr(dataset, "sections", ()))
    return Arrangement(len(dataset), sections=sections, flip=settings.flip)


@attrs.frozen
class MicroBatch:
    """What one process trains on between two backward passes."""

    batch: Batch
    places: tuple[Place, ...]

    def seeds(self, run_seed: int, purpose: str) -> list[int]:
        """One stream seed an example."""
        return [p.seed(run_seed, purpose) for p in self.places]


class Loader:
    """Micro-batches of the steps from `start` on. Micro-batch a of rank r has the samples (a · ranks + r) · mb ..."""

    def __init__(
        self,
        fetch: Callable[[Place], Mapping[str, Any]],
        arrangement: Arrangement | int,
        keys: Mapping[str, str],
        *,
        images_per_step: int,
        accumulate: int,
        steps: int,
        world: World,
        seed: int,
        workers: int = 0,
    ) -> None:
        self._fetch, self._keys, self._world = fetch, keys, world
        self._images, self._accumulate, self._steps = images_per_step, accumulate, steps
        self._micro = images_per_step // (world.size * accumulate)
        self._order, self._workers = Order(arrangement, seed, images_per_step), workers

    def _places(self, start: int) -> Iterator[list[Place]]:
        for step in range(start, self._steps):
            for a in range(self._accumulate):
                first = (a * self._world.size + self._world.rank) * self._micro
                yield self._order.step(step, range(first, first + self._micro))

    def steps(self, start: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step, from step `start` (counted from 0) to the end."""
        loader = DataLoader(
            _Fetch(self._fetch, self._keys),
            batch_sampler=_Lazy(lambda: self._places(start)),
            num_workers=self._workers,
            collate_fn=_same,
            persistent_workers=False,
        )
        micros: list[MicroBatch] = []
        for places, batch in loader:
            micros.append(MicroBatch(to_device(batch, self._world.device), tuple(places)))
            if len(micros) == self._accumulate:
                yield micros
                micros = []


class _Lazy:
    """A batch sampler that makes its batches as they are asked for."""

    def __init__(self, make: Callable[[], Iterator[list[Place]]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[list[list[Place]]]:
        return ([places] for places in self._make())


class _Fetch(TorchDataset):
    """One item is a whole micro-batch: collated where it was loaded, in the worker."""

    def __init__(self, fetch: Callable[[Place], Mapping[str, Any]], keys: Mapping[str, str]) -> None:
        self._fetch, self._keys = fetch, keys

    def __getitem__(self, places: list[Place]) -> tuple[list[Place], dict[str, Any]]:
        return places, collate([self._fetch(p) for p in places], self._keys)


def _same(items: list[Any]) -> Any:
    return items[0]
