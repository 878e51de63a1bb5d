"""Time grids by the noise of a level, sigma / alpha; on a table the levels lie between its entries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ldm_core.contracts import NoiseSchedule, Site, TimeGrid
from ldm_core.contracts.answers import ScheduleAnswers
from ldm_core.contracts.configs import of
from ldm_core.model.steps import log_ratio, time_at
from ldm_plugin_samplers.config import KarrasConfig, LogSNRConfig, QuadConfig, ShiftedConfig

NO_SIGNAL = 80.0
"""The largest sigma / alpha of Karras et al. 2022, for a schedule without a bound."""
UNBOUNDED = 1000.0
"""Above this a schedule has no bound: published tables end at 15 to 157, the cosine table at 20,000."""


class QuadGrid(TimeGrid):
    """The quadratic spacing of the published DDIM code; see :class:`QuadConfig`."""

    def __init__(self, config: QuadConfig, site: Site | None = None) -> None:
        self.config = config

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        """Give `steps` + 1 levels, the last one that of the table's first entry; ValueError for impossible `steps`."""
        table = of(ScheduleAnswers, schedule).table_steps
        if problem := self.config.problem(table, steps):
            raise ValueError(problem)
        assert table is not None
        return torch.tensor([*(i + 1 for i in self.config.indices(table, steps)), 1], dtype=torch.float64)


class RatioGrid(TimeGrid):
    """Levels of even sigma / alpha, as a power 1 / rho or as a logarithm; then data.

    They begin at t_max, or at `sigma_max` if given. On a schedule with next to no signal at t_max, the levels after the
    first are those of a rule from :data:`NO_SIGNAL` on.
    """

    def __init__(self, config: KarrasConfig | LogSNRConfig, site: Site | None = None) -> None:
        self.config = config

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        """Give `steps` + 1 levels; ValueError for less than one step, or for ends beyond the schedule's."""
        config = self.config
        if problem := config.problem(None, steps):
            raise ValueError(problem)
        own = math.exp(float(log_ratio(schedule, torch.tensor(float(schedule.t_max), dtype=torch.float64))))
        low = config.sigma_min or math.exp(float(log_ratio(schedule, _lowest(schedule))))
        high = config.sigma_max or min(own, max(NO_SIGNAL, 2 * low) if own > UNBOUNDED else own)
        if not low < high <= own * (1 + 1e-9):
            raise ValueError(f"sigma_min {low:g} and sigma_max {high:g}: the schedule's sigma / alpha ends at {own:g}")
        part = torch.linspace(0, 1, steps, dtype=torch.float64)
        if isinstance(config, KarrasConfig):
            first, last = high ** (1 / config.rho), low ** (1 / config.rho)
            levels = config.rho * (first + part * (last - first)).log()
        else:
            levels = math.log(high) + part * (math.log(low) - math.log(high))
        times = torch.cat([time_at(schedule, levels), torch.zeros(1, dtype=torch.float64)])
        if not config.sigma_max:
            times[0] = schedule.t_max
        return times


class ShiftedGrid(TimeGrid):
    """Even times with raised noise: sigma / alpha is multiplied by the config's shift for the latents' size.

    On rectified flow it is t -> shift t / (1 + (shift - 1) t). On a schedule with a finite sigma / alpha at its end,
    the even times begin at the level with that end as its multiple: the grid begins at t_max and ends at data.
    """

    def __init__(self, config: ShiftedConfig, site: Site | None = None) -> None:
        self.config = config

    def times(self, schedule: NoiseSchedule, steps: int, *, shape: Sequence[int] | None = None) -> Tensor:
        """Give `steps` + 1 levels for latents (C, *s) of `shape`; ValueError for less than one step."""
        if problem := self.config.problem(None, steps):
            raise ValueError(problem)
        end, shift = torch.tensor(float(schedule.t_max), dtype=torch.float64), math.log(self.config.shift_at(shape))
        top = log_ratio(schedule, end) - shift
        start = time_at(schedule, top) if shift > 0 and bool(top.isfinite()) else end
        even = start * (1 - torch.arange(steps + 1, dtype=torch.float64) / steps)
        times = even.clone()
        times[0] = schedule.t_max
        times[1:-1] = time_at(schedule, log_ratio(schedule, even[1:-1]) + shift)
        return times


def _lowest(schedule: NoiseSchedule) -> Tensor:
    table = of(ScheduleAnswers, schedule).table_steps
    return torch.tensor(1.0 if table is not None else float(schedule.t_max) / 1000, dtype=torch.float64)
