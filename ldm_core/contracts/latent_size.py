"""Training times and time grids of parts that may ask for the size of the latents. Imports no torch.

A schedule or a time grid whose config answers `by_size` with True is handed the latents' shape (C, *s), by the keyword
`shape`; every other one is called as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ldm_core.contracts.answers import PartAnswers
from ldm_core.contracts.configs import TimesConfig
from ldm_core.contracts.defaults import of

if TYPE_CHECKING:
    from torch import Tensor

    from ldm_core.contracts.provisional import NoiseSchedule, TimeGrid


def draw_times(schedule: NoiseSchedule, u: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Uniform u in [0, 1) -> training times, as ``schedule.draw(u)``; `shape` (C, *s) is that of one example's latents.

    Objectives draw by it, so that a schedule which knows sizes is told the size of the batch.
    """
    return schedule.draw(u, **_size(schedule, shape))


def grid_times(grid: TimeGrid, schedule: NoiseSchedule, steps: int, shape: Sequence[int] | None = None) -> Tensor:
    """The grid's times for `steps` steps, as ``grid.times(schedule, steps)``; `shape` (C, *s) is that of one image's
    latents. ValueError as the grid raises it."""
    return grid.times(schedule, steps, **_size(grid, shape))


def _size(part: object, shape: Sequence[int] | None) -> dict[str, Any]:
    """The keyword for a part that asks for the size; nothing for every other one."""
    if not of(TimesConfig, of(PartAnswers, part).config).by_size:
        return {}
    return {"shape": None if shape is None else tuple(shape)}
