"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from ldm_core.settings import EngineSettings


def learning_rate(settings: EngineSettings, step: int) -> float:
    """The rate of step `step` (from 0): a linear warm-up, then constant, or to 0 at `steps` by cosine or line."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    span = max(1, settings.steps - settings.warmup_steps)
    done = min(1.0, (step - settings.warmup_steps) / span)
    if settings.schedule == "linear":
        return settings.lr * (1 - done)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
