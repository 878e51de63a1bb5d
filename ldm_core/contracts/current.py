"""The evaluation of a denoiser that is under way, for hooks and blocks deep inside the network, and the times for the
latents' size, for parts that know sizes. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from ldm_core.contracts.answers import PartAnswers
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.config import of
from ldm_core.contracts.configs import TimesConfig
from ldm_core.contracts.run import SamplingRun

if TYPE_CHECKING:
    from torch import Tensor

    from ldm_core.contracts.provisional import NoiseSchedule, TimeGrid


class Evaluation(NamedTuple):
    """One call of the denoiser, as :func:`evaluation` gives it. Provisional.

    * `cond`: the bundle that the network is handed: merged, prepared, and of B rows, the branches of a guidance batched
    * `noise_level` (B,) float32, as the schedule tells it; `t` (B,), the times
    * `run`: the run of a sampler; None in training and wherever else a model is called by itself
    * `grid`: the axes (h, w) of the latents; inside blocks that say it by :class:`token_grid`, those of their tokens
    """

    cond: Cond
    noise_level: Tensor
    t: Tensor
    run: SamplingRun | None
    grid: tuple[int, ...]


_EVALUATION: ContextVar[Evaluation | None] = ContextVar("ldm_core_evaluation", default=None)
_GRID: ContextVar[Sequence[int]] = ContextVar("ldm_core_grid", default=())  # apart: blocks set it, few ask for it


def evaluation() -> Evaluation | None:
    """The call of a denoiser that this code is part of; None outside of one.

    Each thread sees its own, a model inside another's evaluation has its own, and a block that
    :func:`ldm_core.nn.recompute.recompute` runs again in the backward pass sees that of the forward pass, in whatever
    thread. A denoiser's ``prepare`` is outside: what it computes holds for all levels of a run. A thread that a part
    starts by itself begins with none, unless it runs in a ``contextvars.copy_context()``.
    """
    now = _EVALUATION.get()
    return None if now is None else now._replace(grid=tuple(_GRID.get()))


class during:
    """A context in which :func:`evaluation` is `now`."""

    __slots__ = ("_before", "_grid", "_now")

    def __init__(self, now: Evaluation) -> None:
        self._now = now

    def __enter__(self) -> None:
        self._before, self._grid = _EVALUATION.get(), _GRID.get()
        _EVALUATION.set(self._now)
        _GRID.set(self._now.grid)

    def __exit__(self, *error: object) -> None:
        _EVALUATION.set(self._before)
        _GRID.set(self._grid)


class token_grid:
    """A context in which the evaluation's `grid` is `grid`: a block says the axes of its row-major tokens by it."""

    __slots__ = ("_before", "_grid")

    def __init__(self, grid: Sequence[int]) -> None:
        self._grid = grid

    def __enter__(self) -> None:
        self._before = _GRID.get()
        _GRID.set(self._grid)

    def __exit__(self, *error: object) -> None:
        _GRID.set(self._before)


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
