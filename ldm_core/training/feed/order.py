"""The examples of each step: a function of (seed, step) alone, found for any step without a walk through the others.

Everything here is counted and not drawn: epoch e of n examples is a permutation of [0, n), a function of (seed, e).
Several data sets, or several image sizes, are lanes. They take turns as a line of a given slope crosses a grid: a
lane's number of items before any position is a closed form, and its share is kept over any length of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from math import isqrt
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from ldm_core.contracts.streams import mix_seed

_TABLE = 1 << 20  # up to here a permutation is kept as a table (8 MB); beyond it is computed place by place
_ROUNDS = 8
_MASK = (1 << 64) - 1


@attrs.frozen
class Place:
    """One example's place in the run: the epoch, its index in the data, and whether it is mirrored.

    `crop`: the seed of its random crop, 0 = centred. `size`: its final (h, w), None = the recipe's. `text`: the
    number, modulo theirs, of the caption taken out of several.
    """

    epoch: int
    index: int
    flip: bool
    crop: int = 0
    size: tuple[int, int] | None = None
    text: int = 0

    def seed(self, run_seed: int, purpose: str) -> int:
        """The seed of this example's random stream."""
        return mix_seed(run_seed, purpose, self.epoch, self.index)


class Shuffled:
    """A permutation of [0, `count`) from `key`, place by place and in no memory.

    A Feistel network on two digits of base about sqrt(count), walking on while a value is out of range (Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002). For shuffling, not for secrecy.
    """

    def __init__(self, count: int, key: int) -> None:
        self._count = count
        self._low = isqrt(max(0, count - 1)) + 1
        self._high = -(-count // self._low)
        self._keys = [mix_seed(key, i) for i in range(_ROUNDS)]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self._count:
            raise IndexError(place)
        while True:
            high, low = divmod(place, self._low)
            for i, key in enumerate(self._keys):
                if i % 2:
                    high = (high + _mixed(low ^ key)) % self._high
                else:
                    low = (low + _mixed(high ^ key)) % self._low
            place = high * self._low + low
            if place < self._count:
                return place


def _mixed(x: int) -> int:
    """64 bits in, 64 well-mixed bits out (the finalizer of SplitMix64)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def permutation(count: int, key: int) -> Any:
    """A sequence with each of [0, `count`) once, in an order from `key`; large ones take no memory."""
    if count > _TABLE:
        return Shuffled(count, key)
    return torch.randperm(count, generator=torch.Generator().manual_seed(key)).numpy()


class _Recent:
    """The last used permutations of one kind."""

    def __init__(self, *key: int | str) -> None:
        self._key = key
        self._kept: dict[int, Any] = {}

    def at(self, number: int, count: int, place: int) -> int:
        if number not in self._kept:
            self._kept = {n: p for n, p in self._kept.items() if n >= number - 1}
            self._kept[number] = permutation(count, mix_seed(*self._key, number))
        return int(self._kept[number][place])


class Lanes:
    """Items of several lanes in turn, each evenly spread: of any number of items in a row, a lane has its share to
    within one (two lanes; a little more for many). `key` shifts the pattern.
    """

    def __init__(self, weights: Sequence[Fraction], *key: int | str) -> None:
        rest = sum(weights, Fraction(0))
        self._steps: list[
            tuple[int, int, int]
        ] = []  # of the rest left by the lanes before: a share as p / q, and a phase
        for lane, weight in enumerate(weights[:-1]):
            share, rest = weight / rest, rest - weight
            p, q = share.numerator, share.denominator
            self._steps.append((p, q, mix_seed(*key, lane) % q))

    def at(self, position: int) -> tuple[int, int]:
        """`position`, counted from the start of the run -> the lane, and the number of its items before."""
        for lane, (p, q, phase) in enumerate(self._steps):
            had = (position * p + phase) // q
            if ((position + 1) * p + phase) // q > had:
                return lane, had
            position -= had
        return len(self._steps), position


@attrs.frozen(eq=False)
class Arrangement:
    """The examples of an order: `length` examples, mirrored at random with `flip` and cut at random with `crop`; of
    several `captions` of an example, one is drawn.

    `sections`: (length, weight) of runs of indices, drawn in shares of their own (a mixture's parts); each goes on
    through its own permutations, whatever the others do. `shapes`: the image size of each index, as a number into
    `sizes`; then all examples of a step have one size. `groups`: the class of each index; then all classes of a section
    are drawn equally often, each through permutations of its own.
    """

    length: int
    sections: Sequence[tuple[int, float]] = ()
    flip: bool = False
    crop: bool = False
    captions: bool = False
    shapes: Sequence[int] | NDArray[Any] | None = None
    sizes: Sequence[tuple[int, int]] = ()
    groups: NDArray[Any] | None = None


class Order:
    """The places of a run's examples. Step s of one size takes the next `images` examples of the size, from the end of
    its last step on, also across the end of its permutation: no example is left over or repeated.
    """

    def __init__(self, data: Arrangement | int, seed: int, images: int = 1) -> None:
        self._data = data = data if isinstance(data, Arrangement) else Arrangement(data)
        self._seed, self._images = seed, images
        shapes, sizes, runs = data.shapes, data.sizes, _runs(data)
        self._sizes: list[tuple[int, int] | None] = []
        self._streams: list[_Stream] = []
        rates: list[Fraction] = []
        for number in range(1 if shapes is None else len(sizes)):
            cells = [run if shapes is None else run.of(np.asarray(shapes), number) for run, _ in runs]
            rate = [share * cell.count for (_, share), cell in zip(runs, cells, strict=True)]
            if any(rate):
                words = ("order",) if shapes is None else ("order", number)
                self._sizes.append(None if shapes is None else sizes[number])
                self._streams.append(_Stream(seed, words, cells, rate))
                rates.append(sum(rate, Fraction(0)))
        self._lanes = Lanes(rates, seed, "sizes")

    def step(self, step: int, places: range) -> list[Place]:
        """The step's examples with the numbers `places`."""
        lane, before = self._lanes.at(step)
        size, stream = self._sizes[lane], self._streams[lane]
        return [self._place(*stream.at(before * self._images + i), size) for i in places]

    def place(self, position: int) -> Place:
        """The example at `position`, counted from the start of the run."""
        step, place = divmod(position, self._images)
        return self.step(step, range(place, place + 1))[0]

    def _place(self, epoch: int, index: int, size: tuple[int, int] | None) -> Place:
        flip = self._data.flip and bool(mix_seed(self._seed, "flip", epoch, index) & 1)
        crop = mix_seed(self._seed, "crop", epoch, index) if self._data.crop else 0
        text = mix_seed(self._seed, "caption", epoch, index) if self._data.captions else 0
        return Place(epoch, index, flip, crop, size, text)


@attrs.frozen(eq=False)
class _Cell:
    """The examples of one section, class and size: `count` of them, from `start` on or, behind it, `members`."""

    start: int
    count: int
    members: np.ndarray | None = None

    def of(self, shapes: np.ndarray, number: int) -> _Cell:
        """Those of size `number`."""
        if self.members is None:
            members = np.flatnonzero(shapes[self.start : self.start + self.count] == number)
        else:
            members = self.members[shapes[self.start + self.members] == number]
        return _Cell(self.start, len(members), members)

    def index(self, place: int) -> int:
        return self.start + (place if self.members is None else int(self.members[place]))


def _runs(data: Arrangement) -> list[tuple[_Cell, Fraction]]:
    """The sections, or the classes of each, with the share of every one of their examples."""
    sections = data.sections or [(data.length, 1.0)]
    total = sum(Fraction(weight) for _, weight in sections)
    starts = [0, *accumulate(n for n, _ in sections)]
    found: list[tuple[_Cell, Fraction]] = []
    for start, (n, weight) in zip(starts, sections, strict=False):
        share = Fraction(weight) / total
        if data.groups is None:
            found.append((_Cell(start, n), share / n))
            continue
        groups = np.asarray(data.groups)[start : start + n]
        kinds, counts = np.unique(groups, return_counts=True)
        order = np.split(np.argsort(groups, kind="stable"), np.cumsum(counts)[:-1])
        found += [(_Cell(start, len(each), each), share / len(kinds) / len(each)) for each in order]
    return found


class _Stream:
    """The examples of one size, section by section in their shares, for ever."""

    def __init__(self, seed: int, words: tuple[int | str, ...], cells: Sequence[_Cell], rates: list[Fraction]) -> None:
        kept = [(k, cell, rate) for k, (cell, rate) in enumerate(zip(cells, rates, strict=True)) if rate]
        self._cells = [cell for _, cell, _ in kept]
        self._lanes = Lanes([rate for _, _, rate in kept], seed, "sections", *words)
        alone = len(cells) == 1
        self._orders = [_Recent(seed, *words) if alone else _Recent(seed, *words, f"part {k}") for k, _, _ in kept]

    def at(self, number: int) -> tuple[int, int]:
        """Item `number` of the stream: how often its part was gone through before, and its index."""
        lane, had = self._lanes.at(number)
        cell = self._cells[lane]
        epoch, place = divmod(had, cell.count)
        return epoch, cell.index(self._orders[lane].at(epoch, cell.count, place))
