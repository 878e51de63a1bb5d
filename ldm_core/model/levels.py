"""Levels of noise by their ratio sigma / alpha, and the grid for latents of another scale beside the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ldm_core.contracts import NoiseSchedule, PartAnswers, TimeGrid, grid_times
from ldm_core.contracts.configs import of


def log_ratio(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Give ln(sigma / alpha) at t, of t's shape, float64: minus half the log signal-to-noise ratio."""
    return schedule.sigma(t).log() - schedule.alpha(t).log()


def time_at(schedule: NoiseSchedule, wanted: Tensor) -> Tensor:
    """Find the times in [0, t_max] of the values `wanted` of ln(sigma / alpha), of their shape, float64.

    By bisection, to the last bit: by contract the ratio increases, and no more is known. Values beyond the schedule's
    ends give its ends.
    """
    low = torch.zeros_like(wanted, dtype=torch.float64)
    high = torch.full_like(low, float(schedule.t_max))
    for _ in range(1100):  # the exponents of double precision are passed one by one where t is near 0
        middle = (low + high) / 2
        if bool(((middle == low) | (middle == high)).all()):
            break
        above = log_ratio(schedule, middle) > wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


class ScaledLatentsGrid(TimeGrid):
    """The times of another grid, for latents z of `scale` times their size beside the noise.

    A model that knows x = alpha z + sigma eps knows alpha scale z + sigma eps as well: that is, up to a factor, its own
    x at the level where sigma / alpha is 1 / scale times as large. So each time of the grid moves to that level. Below
    1 the noise grows and t_max is the noisiest level there is: the grid is first drawn together to the levels that stay
    within it. Above 1 its first level stays, as a run begins from noise.
    """

    def __init__(self, grid: TimeGrid, scale: float) -> None:
        self._grid, self._scale = grid, scale
        self.config = of(PartAnswers, grid).config

    def times(self, schedule: NoiseSchedule, steps: int, *, shape: Sequence[int] | None = None) -> Tensor:
        """Give `steps` + 1 levels for latents (C, *s) of `shape`; ValueError as the grid raises it."""
        times = grid_times(self._grid, schedule, steps, shape).double()
        end, shift = torch.tensor(float(schedule.t_max), dtype=torch.float64), -math.log(self._scale)
        top = log_ratio(schedule, end) - shift
        begin = time_at(schedule, top) if shift > 0 and bool(top.isfinite()) else end
        drawn = times * (begin / end)
        moved = torch.where(drawn > 0, time_at(schedule, log_ratio(schedule, drawn) + shift), drawn)
        if shift < 0 or times[0] == end:
            moved[0] = times[0]
        return moved
