"""The contract between the loop and that which it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ldm_core.training.averages.ema import EMA
from ldm_core.training.engine.part import Part
from ldm_core.training.feed.loader import MicroBatch


class Task(Protocol):
    """What is trained: named parts, stepped in order, and one step of it."""

    stage: str
    parts: Sequence[Part]
    ema: EMA | None
    part_steps: dict[str, int]
    """How many optimizer steps each part has made (a discriminator starts later)."""

    def prepare(self, start: int) -> None:
        """Called once before the first step (from 0) of this process."""
        ...

    def step(self, step: int, micros: Sequence[MicroBatch], *, measure: bool) -> Mapping[str, Any]:
        """One optimizer step of every part, then of its averages, where the step counts; with `measure`, logs
        as tensors or floats, else whatever is at hand."""
        ...
