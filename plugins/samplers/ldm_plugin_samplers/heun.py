"""Heun's method."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_plugin_samplers.config import HeunConfig
from ldm_plugin_samplers.walk import FAR, Walk


class HeunSampler(Sampler):
    """The trapezoidal rule in sigma / alpha, after an Euler step as a probe (Karras et al. 2022, arXiv 2206.00364,
    algorithm 1).

    With r = sigma / alpha, the average of eps at both ends adds alpha' (r / r' - 1) / 2 (x0' - x0) to Euler's x. A
    step to data is Euler's. Where r falls by more than a factor of 50 in one step, as from a level with next to no
    signal, that sum would be lost in the error of x0'; there the rule is applied in alpha / sigma, and x0 averaged in
    place of eps, which adds alpha' (1 - r' / r) / 2 (x0' - x0). Second order, deterministic, two evaluations a step.
    """

    def __init__(self, config: HeunConfig, site: Site | None = None) -> None:
        self.config = config

    def sample(
        self,
        denoise: Denoise,
        x: Tensor,
        times: Tensor,
        schedule: NoiseSchedule,
        *,
        streams: Streams | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """x (B, C, *s) at times[0] -> x at times[-1]."""
        walk = Walk(denoise, times, schedule, on_step)
        for i in walk:
            x0 = walk.x0(i, x)
            x = walk.euler(i, x, x0)
            if walk.sigmas[i + 1] > 0:
                h = walk.interval(i)
                weight = math.expm1(h) if h < FAR else -math.expm1(-h)
                x = x + (0.5 * weight * walk.alphas[i + 1]) * (walk.x0(i + 1, x) - x0)
            x = walk.told(i, x, x0)
        return x
