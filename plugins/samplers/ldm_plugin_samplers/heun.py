"""Heun's method."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import FAR, Steps
from ldm_plugin_samplers.config import HeunConfig


class HeunSampler(Sampler):
    """The trapezoidal rule in r = sigma / alpha, after an Euler step (Karras et al. 2022, arXiv 2206.00364, algorithm
    1).

    The mean of eps at both ends adds alpha' (r / r' - 1) / 2 (x0' - x0) to Euler's x. A step to data is Euler's. After
    a fall of r by more than a factor of 50, as from a level with next to no signal, the error of x0' would drown that
    sum: the rule is in 1 / r and x0 there, in place of r and eps, and adds alpha' (1 - r' / r) / 2 (x0' - x0). Second
    order, deterministic, two evaluations a step.
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
        steps = Steps(denoise, times, schedule, streams, on_step)
        for i in steps:
            x0 = steps.x0(i, x)
            x = steps.euler(i, x, x0)
            if steps.sigma[i + 1] > 0:
                h = steps.h(i)
                weight = math.expm1(h) if h < FAR else -math.expm1(-h)
                x = x + (0.5 * weight * steps.alpha[i + 1]) * (steps.x0(i + 1, x) - x0)
            x = steps.done(i, x, x0)
        return x
