"""Euler's method."""

from __future__ import annotations

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_plugin_samplers.config import EulerConfig
from ldm_plugin_samplers.walk import Walk


class EulerSampler(Sampler):
    """The probability flow by Euler steps in sigma / alpha (Karras et al. 2022, arXiv 2206.00364, algorithm 1 without
    its lines 6 to 8).

    In these coordinates one rule serves all schedules: it is DDIM with eta 0 on a variance-preserving one and a step
    along the velocity on rectified flow. First order, deterministic, one evaluation a step.
    """

    def __init__(self, config: EulerConfig, site: Site | None = None) -> None:
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
            x = walk.told(i, walk.euler(i, x, x0), x0)
        return x
