"""The ancestral sampler of DDPM, for any schedule and any grid."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core.builtin.diffusion.config import DDPMConfig
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Sampler, Site
from ldm_core.contracts.streams import Streams


class DDPMSampler(Sampler):
    """Draws each level from the Gaussian posterior given x and the estimated x0 (Ho et al. 2020, equations 6,
    7).

    From level t to s, with a = alpha_t / alpha_s and v = sigma_t² - a² sigma_s²: mean (a sigma_s² x + alpha_s
    v x0) / sigma_t², variance sigma_s² v / sigma_t² (small) or v (large). A step that ends at sigma = 0 draws
    nothing and returns x0. Divides by alpha(times[i]) for i > 0 only.
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
        """x (B, C, *s) at times[0] -> x at times[-1]. ValueError if noise needs `streams` and there are none."""
        alphas, sigmas = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
        for i in range(len(times) - 1):
            alpha_s, sigma_t, sigma_s = alphas[i + 1], sigmas[i], sigmas[i + 1]
            ratio = alphas[i] / alpha_s
            variance = max(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0)
            x0 = denoise(x, times[i].to(x.device).expand(x.shape[0])).data.to(x.dtype)
            x = (ratio * sigma_s**2 / sigma_t**2) * x + (alpha_s * variance / sigma_t**2) * x0
            if sigma_s > 0:
                if streams is None:
                    raise ValueError("the ddpm sampler draws noise: hand it streams, one seed an example")
                std = math.sqrt(variance) * (sigma_s / sigma_t if self.config.variance == "small" else 1.0)
                x = x + std * streams.normal(x.shape).to(x)
            if on_step is not None:
                replaced = on_step(i, times[i + 1], x, x0)
                x = x if replaced is None else replaced
        return x
