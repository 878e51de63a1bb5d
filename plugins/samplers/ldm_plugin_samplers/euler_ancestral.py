"""Euler's method with ancestral noise."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_plugin_samplers.config import EulerAncestralConfig
from ldm_plugin_samplers.walk import Walk


class EulerAncestralSampler(Sampler):
    """An Euler step past the next level, and fresh noise back up to it (Song et al. 2021, arXiv 2011.13456, appendix
    F, in the form of k-diffusion's sample_euler_ancestral).

    With r = sigma / alpha from r to r': up = eta r' sqrt(1 - (r' / r)²), down = sqrt(r'² - up²), and x becomes alpha'
    (x0 + down eps + noise up). That is DDIM with the same eta, and the ancestral sampler of DDPM where eta is 1. First
    order, one evaluation a step. A step to data draws nothing.
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
        """x (B, C, *s) at times[0] -> x at times[-1]. ValueError if noise needs `streams` and there are none."""
        walk = Walk(denoise, times, schedule, on_step, streams)
        for i in walk:
            x0 = walk.x0(i, x)
            shrink = math.exp(-walk.interval(i))  # r' / r
            up = self.config.eta * math.sqrt(1 - shrink**2)
            sigma = walk.sigmas[i + 1]
            after = walk.alphas[i + 1] * x0 + sigma * math.sqrt(1 - up**2) * walk.eps(i, x, x0)
            if sigma > 0 and self.config.eta > 0:
                after = after + self.config.noise * sigma * up * walk.noise(x, "euler_ancestral")
            x = walk.told(i, after, x0)
        return x
