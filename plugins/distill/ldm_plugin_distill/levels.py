"""The levels of a distillation, and the boundary of a consistency function."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_core.contracts import NoiseSchedule, ScheduleAnswers, Site, TimeGrid
from ldm_core.contracts.configs import of
from ldm_plugin_distill.config import LCMGridConfig

VARIANCE = 0.25
"""The variance of the data in the published boundary."""


def time_of(schedule: NoiseSchedule, number: Tensor, levels: int) -> Tensor:
    """The time of level `number` of `levels` even ones, of its shape, float64: t_max at the last, 0 (data) at 0; a
    table's times are whole."""
    t = float(schedule.t_max) * number.double() / levels
    return t if of(ScheduleAnswers, schedule).table_steps is None else t.round()


def boundary(schedule: NoiseSchedule, t: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out) of f = c_skip x + c_out x0 at t, of its shape, float64 (Luo et al. 2023, section 4.1).

    With s = `factor` times the index in a table of 1000 they are v / (s² + v) and s / sqrt(s² + v), v = 0.25. Other
    schedules count t / t_max in thousandths. `factor` 0: f = x0.
    """
    if factor == 0:
        return torch.zeros_like(t, dtype=torch.float64), torch.ones_like(t, dtype=torch.float64)
    table = of(ScheduleAnswers, schedule).table_steps
    index = t.double() / float(schedule.t_max) if table is None else (t.double() - 1).clamp(min=0) / table
    s = factor * 1000 * index
    return VARIANCE / (s**2 + VARIANCE), s / (s**2 + VARIANCE).sqrt()


class LCMGrid(TimeGrid):
    """Evenly spaced of the levels of a consistency distillation; see :class:`LCMGridConfig`."""

    def __init__(self, config: LCMGridConfig, site: Site | None = None) -> None:
        self.config = config

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        """Give `steps` + 1 levels, data last; ValueError for impossible `steps`."""
        if problem := self.config.problem(of(ScheduleAnswers, schedule).table_steps, steps):
            raise ValueError(problem)
        numbers = torch.tensor([*self.config.numbers(steps), 0], dtype=torch.float64)
        return time_of(schedule, numbers, self.config.levels)
