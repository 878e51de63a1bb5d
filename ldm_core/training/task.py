"""The contract between the loop and its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ldm_core.training.averages.ema import EMA
from ldm_core.training.engine.part import Part
from ldm_core.training.feed.loader import MicroBatch


class Task(Protocol):
    """Named parts, trained together and stepped in order, and one step of them."""

    stage: str
    parts: Sequence[Part]
    ema: EMA | None
    part_steps: dict[str, int]
    """Number of optimizer steps of each part (a discriminator starts later)."""

    @property
    def validate(self) -> Callable[[int], Mapping[str, float]] | None:
        """Measures on held-out data after a step (counted from 1), called by all processes, and gives nothing if it was
        cut off as the run was asked to leave; None = nothing does."""
        ...

    @property
    def preview(self) -> Callable[[int], None] | None:
        """Draws pictures after a step (counted from 1), called by all processes; None = nothing does."""
        ...

    def prepare(self, start: int) -> None:
        """Get ready for the first step (from 0) of this process, after a checkpoint was loaded."""
        ...

    def step(self, step: int, micros: Sequence[MicroBatch], *, measure: bool) -> Mapping[str, Any]:
        """One optimizer step of every part, then of its averages, if the step counts; with `measure`, logs
        as tensors or floats, else whatever is at hand."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Give the state for a resumed run beside parts and averages."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        ...
