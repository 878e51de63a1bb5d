"""Successive halving: many candidates on few pictures, then a third of them on three times as many. Imports no torch.

Jamieson and Talwalkar 2016, arXiv 1502.07943. Here candidates have two figures: those on the front of quality and time
stay, or next to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

SHARE = 3
"""Candidates of a rung for one of the next."""
LEAST = 4
"""Candidates of the last rung, at least."""


class Point(Protocol):
    """A candidate's figures."""

    @property
    def quality(self) -> float:
        """The deciding value."""

    @property
    def time(self) -> float:
        """Seconds a picture, or in units of another's."""


P = TypeVar("P", bound=Point)


def schedule(candidates: int, images: int, rungs: int) -> list[tuple[int, int]]:
    """The rungs, as (candidates, images): the last one of all `images`, each before it of a third, until one has no
    more than :data:`LEAST` candidates."""
    kept = [candidates]
    while len(kept) < rungs and kept[-1] > LEAST:
        kept.append(max(LEAST, math.ceil(kept[-1] / SHARE)))
    return [(count, math.ceil(images / SHARE ** (len(kept) - 1 - i))) for i, count in enumerate(kept)]


def fronts(points: Sequence[P], *, higher: bool) -> list[list[P]]:
    """The points in fronts, each sorted by time: no point of one is as fast and as good as another of it, or of a later
    one. `higher`: the larger quality is the better one."""
    sign, left = (-1.0 if higher else 1.0), sorted(points, key=lambda p: p.time)
    found: list[list[P]] = []
    while left:
        front: list[P] = []
        for point in sorted(left, key=lambda p: (p.time, sign * p.quality)):
            if not front or sign * point.quality < sign * front[-1].quality:
                front.append(point)
        found.append(front)
        left = [point for point in left if not any(point is each for each in front)]
    return found


def survivors(points: Sequence[P], keep: int, *, higher: bool) -> list[P]:
    """The `keep` points to go on: front by front; of one without room for all both ends, and then always the point
    farthest in time from those chosen, as a ratio."""
    kept: list[P] = []
    for front in fronts(points, higher=higher):
        room = keep - len(kept)
        if room <= 0:
            break
        kept += front if len(front) <= room else _spread(front, room)
    return kept


def _spread(front: Sequence[P], count: int) -> list[P]:
    chosen = [front[-1], front[0]][:count]  # the best, and the fastest
    left = list(front[1:-1])
    while len(chosen) < count:
        far = max(left, key=lambda p: min(abs(math.log(p.time / q.time)) for q in chosen))
        chosen.append(far)
        left = [point for point in left if point is not far]
    return sorted(chosen, key=lambda p: p.time)
