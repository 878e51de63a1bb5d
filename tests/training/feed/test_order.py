"""The order of examples: permutations without tables, shares, image sizes, any step from its number alone."""

from __future__ import annotations

import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from ldm_core.data.buckets import nearest
from ldm_core.training.feed.order import Arrangement, Lanes, Order, Shuffled, permutation


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 99, 1000, 65_537])
def test_every_number_comes_once(count: int) -> None:
    assert sorted(Shuffled(count, 7)[i] for i in range(count)) == list(range(count))


def test_orders_look_uniform() -> None:
    """Chi-square of where 40 keys put their values, against its mean and deviation; correlation with the identity."""
    count, cells = 20_000, 20
    for key in range(3):
        values = np.array([(s := Shuffled(count, key))[i] for i in range(count)])
        assert abs(np.corrcoef(values, np.arange(count))[0, 1]) < 4 / np.sqrt(count)
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / np.sqrt(count)
        table = np.histogram2d(np.arange(count), values, bins=cells)[0]
        expected = count / cells**2
        chi2, freedom = ((table - expected) ** 2 / expected).sum(), (cells - 1) ** 2
        assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)
        fixed = int((values == np.arange(count)).sum())
        assert fixed < 8  # Poisson of mean 1
        assert len(s) == count
    first = [Shuffled(1000, key)[0] for key in range(2000)]  # one place under many keys
    chi2 = ((np.bincount(np.array(first) // 100, minlength=10) - 200) ** 2 / 200).sum()
    assert chi2 < 9 + 5 * np.sqrt(18)


def test_a_hundred_million_examples_take_no_memory_and_no_time() -> None:
    order = Order(Arrangement(100_000_000, flip=True), seed=1, images=256)
    begun = time.perf_counter()
    places = order.step(10**9, range(256))
    assert time.perf_counter() - begun < 1
    assert len({p.index for p in places}) == 256 and places[0].epoch == 256 * 10**9 // 10**8
    with pytest.raises(IndexError):
        Shuffled(10, 1)[10]
    assert not isinstance(permutation(10, 1), Shuffled)


def test_lanes_keep_their_shares_at_every_moment() -> None:
    weights = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    lanes = Lanes(weights, 3)
    had = Counter[int]()
    for position in range(3000):
        lane, before = lanes.at(position)
        assert before == had[lane]  # the items of a lane follow on each other
        had[lane] += 1
        for number, weight in enumerate(weights):
            assert abs(had[number] - weight * (position + 1)) < 2
    assert had == {0: 1500, 1: 1000, 2: 500}
    assert lanes.at(1234) == Lanes(weights, 3).at(1234)


def test_a_step_has_one_size_and_nothing_is_left_over() -> None:
    """103 examples in three sizes of 60, 40 and 3, steps of 8: shares and permutations hold across steps."""
    shapes = np.array([0] * 60 + [1] * 40 + [2] * 3)
    rng = np.random.default_rng(0)
    rng.shuffle(shapes)
    sizes = ((32, 32), (24, 40), (40, 24))
    arranged = Arrangement(103, shapes=shapes, sizes=sizes, flip=True, crop=True)
    order = Order(arranged, seed=2, images=8)
    steps = [order.step(s, range(8)) for s in range(1030)]  # 80 times through the data
    by_size: dict[tuple[int, int], list[int]] = {size: [] for size in sizes}
    for places in steps:
        (size,) = {p.size for p in places}
        assert size is not None and all(sizes[shapes[p.index]] == size for p in places)
        by_size[size] += [p.index for p in places]
    for number, size in enumerate(sizes):
        members = np.flatnonzero(shapes == number).tolist()
        seen = by_size[size]
        assert abs(len(seen) - 80 * len(members)) <= 16
        for start in range(0, len(seen) - len(members) + 1, len(members)):
            assert sorted(seen[start : start + len(members)]) == members
    places = [p for step in steps for p in step]
    assert len({(p.epoch, p.index) for p in places}) == len(places)
    assert len({p.crop for p in places}) == len(places)
    other = Order(arranged, seed=2, images=8)
    assert [other.step(517, range(k, k + 2)) for k in (0, 2, 4, 6)] == [steps[517][k : k + 2] for k in (0, 2, 4, 6)]
    assert [p.size for p in order.step(9, range(1))] == [steps[9][0].size]


def test_sizes_and_shares_together() -> None:
    """Two data sets at 1 to 3, each in two sizes: over the run both the shares and the sizes come out."""
    shapes = np.array([0, 0, 1, 1] * 5 + [0, 1, 1, 1] * 10)
    arranged = Arrangement(60, sections=[(20, 1.0), (40, 3.0)], shapes=shapes, sizes=((8, 8), (8, 16)))
    order = Order(arranged, seed=4, images=4)
    places = [p for s in range(600) for p in order.step(s, range(4))]
    first = [p for p in places if p.index < 20]
    assert abs(len(first) / len(places) - 0.25) < 0.01
    assert abs(sum(p.size == (8, 8) for p in first) / len(first) - 0.5) < 0.02
    second = Counter(p.index for p in places if p.index >= 20)
    assert max(second.values()) - min(second.values()) <= 3


def test_the_nearest_shape_is_that_of_the_nearest_ratio() -> None:
    sizes = [(64, 64), (48, 80), (80, 48), (32, 32)]
    native = np.array([[100, 100], [500, 375], [375, 500], [0, 0], [1000, 10], [10, 1000], [300, 360]])
    assert nearest(native, sizes).tolist() == [0, 2, 1, 0, 2, 1, 0]
