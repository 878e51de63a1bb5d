"""The DDIM sampler, for any schedule and any grid."""

from __future__ import annotations

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps
from ldm_plugin_ddim.config import DDIMConfig


class DDIMSampler(Sampler):
    """Keep part of the noise that x0 implies, and draw the rest afresh (Song et al. 2020, equations 12 and 16).

    From level t to s, with fresh noise f = eta sigma_s / sigma_t sqrt(sigma_t² - (alpha_t / alpha_s)² sigma_s²), x
    becomes alpha_s x0 + sqrt(sigma_s² - f²) eps + temperature f noise; the paper's step on a variance-preserving
    schedule. With eta > 0 it divides by alpha(times[i]), i > 0. A projected estimate keeps its eps.
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
        """x (B, C, *s) at times[0] -> x at times[-1]. ValueError where noise lacks `streams`."""
        steps = Steps(denoise, times, schedule, streams, on_step)
        for i in steps:
            kept, fresh = steps.ddim(i, self.config.eta)
            estimate = steps.estimate(i, x)
            x0 = estimate.x0.to(x.dtype)
            if estimate.project is None:
                x = steps.euler(i, x, x0, kept)
            else:  # in double precision: near ties between codes hang on the last digits of eps
                codes = estimate.data.to(x.dtype)
                left = kept * (x.double() - steps.alpha[i] * x0.double())
                x, x0 = (left + steps.alpha[i + 1] * codes.double()).to(x.dtype), codes
            if (std := fresh * self.config.temperature) > 0:
                x = x + std * steps.draw(x)
            x = steps.done(i, x, x0)
        return x
