"""Euler's method."""

from __future__ import annotations

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps
from ldm_plugin_samplers.config import EulerConfig


class EulerSampler(Sampler):
    """The probability flow by Euler steps in sigma / alpha (Karras et al. 2022, arXiv 2206.00364, lines 1 to 5 of
    algorithm 1).

    One rule serves all schedules: it is DDIM with eta 0 on a variance-preserving one, and a step along the velocity on
    rectified flow. First order, deterministic, one evaluation a step.
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
        steps = Steps(denoise, times, schedule, streams, on_step)
        for i in steps:
            x0 = steps.x0(i, x)
            x = steps.done(i, steps.euler(i, x, x0), x0)
        return x
