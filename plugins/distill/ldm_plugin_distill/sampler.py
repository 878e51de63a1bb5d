"""Multistep consistency sampling."""

from __future__ import annotations

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps
from ldm_plugin_distill.config import LCMConfig
from ldm_plugin_distill.levels import boundary


class LCMSampler(Sampler):
    """To the data by the consistency function f, and up to the next level with fresh noise (Luo et al. 2023, arXiv
    2310.04378, algorithm 3): x becomes alpha' f + sigma' noise, f = c_skip x + c_out x0. A step to data draws nothing.

    For models of consistency distillation: the mean of x0 in the place of f loses the data's spread.
    """

    def __init__(self, config: LCMConfig, site: Site | None = None) -> None:
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
        skip, out = (c.tolist() for c in boundary(schedule, times, self.config.boundary))
        for i in steps:
            data = skip[i] * x + out[i] * steps.x0(i, x)
            after = steps.alpha[i + 1] * data
            if steps.sigma[i + 1] > 0:
                after = after + steps.sigma[i + 1] * steps.draw(x)
            x = steps.done(i, after, data)
        return x
