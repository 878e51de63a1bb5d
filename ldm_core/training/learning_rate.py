"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from ldm_core.recipe.settings import EngineSettings


def learning_rate(settings: EngineSettings, step: int) -> float:
    """The rate of step `step` (from 0): a linear warm-up, then the schedule.

    The warm-up, from ``warmup_from`` times the rate, is the published one (linear in the step) a step ahead, so its
    first step moves something. ``cosine`` and ``linear`` go from the warm-up's end to ``final_lr`` times the rate
    at ``decay_end`` (0: at ``steps``), and stay there.
    ``inverse_sqrt`` stays until n = ``decay_start`` steps were made (0: the warm-up's length, at least 1) and is
    lr sqrt(decay_start / n) from there, as EDM2 trains (Karras et al. 2024, arXiv 2312.02696, section B.5).
    """
    if step < settings.warmup_steps:
        risen = (step + 1) / settings.warmup_steps
        return settings.lr * (settings.warmup_from + (1 - settings.warmup_from) * risen)
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "inverse_sqrt":
        start = settings.decay_start or max(1, settings.warmup_steps)
        return settings.lr * math.sqrt(min(1.0, start / (step + 1)))
    span = max(1, (settings.decay_end or settings.steps) - settings.warmup_steps)
    done = min(1.0, (step - settings.warmup_steps) / span)
    left = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * left)
