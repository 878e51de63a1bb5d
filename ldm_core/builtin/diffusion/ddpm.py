"""The ancestral sampler of DDPM, for any schedule and any grid."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core.builtin.diffusion.config import DDPMConfig
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Sampler, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps


class DDPMSampler(Sampler):
    """Draw each level from the Gaussian posterior given x and the estimated x0 (Ho et al. 2020, equations 6 and 7).

    From level t to s, with a = alpha_t / alpha_s and v = sigma_t² - a² sigma_s²: mean (a sigma_s² x + alpha_s v x0) /
    sigma_t², variance sigma_s² v / sigma_t² (small) or v (large). A step to sigma = 0 draws nothing and gives x0. It
    divides by alpha(times[i]) for i > 0 only.
    """

    def __init__(self, config: DDPMConfig, site: Site | None = None) -> None:
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
            alpha_s, sigma_t, sigma_s = steps.alpha[i + 1], steps.sigma[i], steps.sigma[i + 1]
            ratio, variance = steps.alpha[i] / alpha_s, steps.added_variance(i)
            x0 = steps.estimate(i, x).data.to(x.dtype)
            x = (ratio * sigma_s**2 / sigma_t**2) * x + (alpha_s * variance / sigma_t**2) * x0
            if sigma_s > 0:
                std = math.sqrt(variance) * (sigma_s / sigma_t if self.config.variance == "small" else 1.0)
                x = x + std * steps.draw(x)
            x = steps.done(i, x, x0)
        return x
