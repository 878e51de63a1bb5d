"""Euler's method with ancestral noise."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps
from ldm_plugin_samplers.config import EulerAncestralConfig


class EulerAncestralSampler(Sampler):
    """An Euler step past the next level, and fresh noise back up to it (Song et al. 2021, arXiv 2011.13456, appendix F;
    the form is k-diffusion's sample_euler_ancestral).

    With r = sigma / alpha, from r to r': up = eta r' sqrt(1 - (r' / r)²), down = sqrt(r'² - up²), and x becomes alpha'
    (x0 + down eps + up noise): DDIM with the same eta, and DDPM's ancestral sampler with eta 1. First order, one
    evaluation a step. A step to data draws nothing.
    """

    def __init__(self, config: EulerAncestralConfig, site: Site | None = None) -> None:
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
        """x (B, C, *s) at times[0] -> x at times[-1]. ValueError where noise lacks `streams`."""
        steps = Steps(denoise, times, schedule, streams, on_step)
        for i in steps:
            x0 = steps.x0(i, x)
            shrink = math.exp(-steps.h(i))  # r' / r
            up = self.config.eta * math.sqrt(1 - shrink**2)
            sigma = steps.sigma[i + 1]
            after = steps.alpha[i + 1] * x0 + sigma * math.sqrt(1 - up**2) * steps.eps(i, x, x0)
            if sigma > 0 and self.config.eta > 0:
                after = after + self.config.noise * sigma * up * steps.draw(x)
            x = steps.done(i, after, x0)
        return x
