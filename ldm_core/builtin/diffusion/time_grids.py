"""Levels at which a sampler evaluates the schedule: published choices of table entries, or even times.

A schedule that is a table says so by an attribute `table_steps`, T; table index i is level t = i + 1. On a
continuous schedule every grid but the legacy one is even in t, from t_max to 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_core.builtin.diffusion.config import LeadingConfig, LegacyConfig, LinspaceConfig, TrailingConfig
from ldm_core.contracts import NoiseSchedule, Site, TimeGrid
from ldm_core.contracts.answers import ScheduleAnswers
from ldm_core.contracts.configs import of


def table_steps(schedule: NoiseSchedule) -> int | None:
    """The length T of a schedule's table, or None for a continuous schedule."""
    return of(ScheduleAnswers, schedule).table_steps


def _levels(indices: list[int], final: float) -> Tensor:
    return torch.tensor([*(i + 1 for i in indices), final], dtype=torch.float64)


class LegacyGrid(TimeGrid):
    """Table indices range(0, T, T // steps) + 1, ending at index 0 and not at data (Rombach et al. 2022)."""

    def __init__(self, config: LegacyConfig, site: Site | None = None) -> None:
        self.config = config

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        """`steps` + 1 levels, or more with `uneven`; ValueError naming the nearest step count where that number cannot
        be."""
        table = table_steps(schedule)
        if problem := self.config.problem(table, steps):
            raise ValueError(problem)
        assert table is not None
        return _levels(list(self.config.indices(table, steps))[::-1], 1.0)


class EvenGrid(TimeGrid):
    """Leading, trailing or linspace spacing (Lin et al. 2023, table 2), as its config says."""

    def __init__(self, config: LeadingConfig | TrailingConfig | LinspaceConfig, site: Site | None = None) -> None:
        self.config = config
        self._final = 1.0 if isinstance(config, LeadingConfig) and config.final == "first" else 0.0

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        """`steps` + 1 levels; ValueError for less than one step or more than the table has."""
        table = table_steps(schedule)
        if problem := self.config.problem(table, steps):
            raise ValueError(problem)
        if table is None:
            return schedule.t_max * (1 - torch.arange(steps + 1, dtype=torch.float64) / steps)
        return _levels(self.config.indices(table, steps), self._final)
