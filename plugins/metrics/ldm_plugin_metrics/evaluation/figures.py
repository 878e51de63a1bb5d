"""Numbers of rows: of a whole set, of the halves of the reference, of resampled pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Rows
from ldm_core.errors import ConfigError
from ldm_plugin_metrics.evaluation.asked import Asked
from ldm_plugin_metrics.evaluation.store import RowStore

Weights = NDArray[np.int64]
"""The times that each picture counts."""
LEVEL = 0.95
"""The share of resampled figures in an interval."""


@attrs.frozen(eq=False)
class Statistics:
    """Sums of a set without its rows, as a file of statistics holds them; `count` 0 = not known."""

    sums: Mapping[str, Any]
    count: int


Side = RowStore | Statistics


@attrs.frozen(eq=False)
class Figure:
    """The numbers of one metric: `values`, those of two halves of the reference, and of `draws` of resampled
    pictures, each by name."""

    values: Mapping[str, float]
    floor: Mapping[str, float]
    floor_pictures: int
    draws: Mapping[str, list[float]]

    def interval(self, name: str) -> tuple[float, float] | None:
        """The span of 95 % of the draws, moved until their mean is the value; None without draws.

        Resampled sets repeat pictures, and so bias a distance; the moved span is one of figures of as many other
        pictures, with the bias of the value.
        """
        if not self.draws:
            return None
        draws = np.asarray(self.draws[name])
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - draws.mean() + self.values[name]
        return float(low), float(high)


def figure(asked: Asked, own: RowStore, against: Side | None, *, seed: int = 0, bootstrap: int = 0) -> Figure:
    """Compute a metric's numbers from stored rows; `seed` decides halves and resampled pictures, and nothing else."""
    values = asked.values(_side(asked, own), None if against is None else _side(asked, against))
    floor, half = _floor(asked, against, seed)
    draws: dict[str, list[float]] = {name: [] for name in values} if bootstrap else {}
    for number in range(bootstrap):
        mine = _side(asked, own, _resampled(len(own), [seed, 1, number]))
        theirs: Rows | None = None
        if isinstance(against, RowStore):
            theirs = _side(asked, against, _resampled(len(against), [seed, 2, number]))
        elif against is not None:
            theirs = _side(asked, against)
        for name, value in asked.values(mine, theirs).items():
            draws[name].append(value)
    return Figure(values, floor, half, draws)


def summed(asked: Asked, rows: RowStore, weights: Weights | None = None) -> dict[str, Any]:
    """The metric's sums over the blocks in order, so that equal rows have equal sums to the bit."""
    sums = asked.answers.sums
    assert sums is not None
    total: dict[str, Any] = {}
    for places, block in rows:
        own = None if weights is None else weights[places.start : places.stop]
        if own is not None and not own.any():
            continue
        chosen = block if own is None else _repeated(block, own)
        for name, value in sums(chosen).items():
            total[name] = np.asarray(value) if name not in total else total[name] + np.asarray(value)
    return total


def require_sums(asked: Asked, statistics: Statistics, like: Mapping[str, Any], where: str) -> None:
    """ConfigError if the statistics are not those of the metric: other names, or another dimension than `like`."""
    if asked.answers.sums is None or set(like) != set(statistics.sums):
        raise ConfigError(
            f"{asked.name}: compares rows, and {where} holds mean and covariance alone; give pictures to --against"
        )
    theirs, ours = np.shape(statistics.sums["sum"]), np.shape(like["sum"])
    if theirs != ours:
        raise ConfigError(
            f"{where}: statistics of {theirs[-1]} numbers a picture, and {asked.name} has {ours[-1]} "
            f"({asked.source}); they are of another network, so give those of this one, or pictures"
        )


def _side(asked: Asked, side: Side, weights: Weights | None = None) -> Rows:
    if isinstance(side, Statistics):
        return side.sums
    if asked.answers.sums is not None:
        return summed(asked, side, weights)
    return side.whole() if weights is None else _repeated(side.whole(), weights)


def _repeated(rows: Rows, weights: Weights) -> dict[str, NDArray[Any]]:
    chosen = np.repeat(np.arange(len(weights)), weights)
    return {name: value[chosen] for name, value in rows.items()}


def _resampled(count: int, seed: list[int]) -> Weights:
    drawn = np.random.default_rng(seed).integers(0, count, count)
    return np.bincount(drawn, minlength=count).astype(np.int64)


def _floor(asked: Asked, against: Side | None, seed: int) -> tuple[dict[str, float], int]:
    """The numbers of two halves of the other set, one against the other, and a half's pictures; none of too few."""
    if not isinstance(against, RowStore) or len(against) // 2 < asked.least or len(against) < 2:
        return {}, 0
    first = np.zeros(len(against), np.int64)
    first[np.random.default_rng([seed, 0]).permutation(len(against))[: len(against) // 2]] = 1
    return asked.values(_side(asked, against, first), _side(asked, against, 1 - first)), len(against) // 2
