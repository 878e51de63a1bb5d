"""The DDIM sampler, for any schedule and any grid."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_plugin_ddim.config import DDIMConfig


class DDIMSampler(Sampler):
    """Keeps part of the noise that x0 implies and draws the rest afresh (Song et al. 2020, equations 12 and
    16).

    From level t to s, with a = alpha_t / alpha_s, fresh noise f = eta sigma_s / sigma_t sqrt(sigma_t² - a²
    sigma_s²), x becomes alpha_s x0 + sqrt(sigma_s² - f²) eps + temperature f noise, eps = (x - alpha_t x0) /
    sigma_t. On a variance-preserving schedule that is the paper's step. Divides by alpha(times[i]), i > 0,
    where eta > 0. Estimates that are projected (``Estimate.project``) keep their eps.
    """

    def __init__(self, config: DDIMConfig, site: Site | None = None) -> None:
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
            alpha_t, alpha_s, sigma_t, sigma_s = alphas[i], alphas[i + 1], sigmas[i], sigmas[i + 1]
            fresh = 0.0
            if self.config.eta > 0:
                added = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
                fresh = self.config.eta * sigma_s / sigma_t * math.sqrt(max(added, 0.0))
            kept = math.sqrt(max(sigma_s**2 - fresh**2, 0.0)) / sigma_t
            estimate = denoise(x, times[i].to(x.device).expand(x.shape[0]))
            x0 = estimate.x0.to(x.dtype)
            if estimate.project is None:
                x = kept * x + (alpha_s - kept * alpha_t) * x0
            else:
                # in double precision: near ties between codes hang on the last digits of eps
                codes = estimate.data.to(x.dtype)
                left = kept * (x.double() - alpha_t * x0.double())
                x, x0 = (left + alpha_s * codes.double()).to(x.dtype), codes
            if fresh * self.config.temperature > 0:
                if streams is None:
                    raise ValueError("ddim with eta > 0 draws noise: hand it streams, one seed an example")
                x = x + (fresh * self.config.temperature) * streams.normal(x.shape).to(x)
            if on_step is not None:
                replaced = on_step(i, times[i + 1], x, x0)
                x = x if replaced is None else replaced
        return x
