"""DPM-Solver++ of second order with two-step memory, deterministic and with noise."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps
from ldm_plugin_samplers.config import DPMSolverPP2MConfig, DPMSolverPP2MSDEConfig


class DPMSolverPP2MSampler(Sampler):
    """Exponential integrator of x0 in lambda (Lu et al. 2022, arXiv 2211.01095): algorithm 2; with noise, section 4.3.

    With g = eta h, x becomes sigma' / sigma e^-g x + alpha' (1 - e^-(h + g)) D + sigma' sqrt(1 - e^-2g) noise, D = x0 +
    h / (2 h_before) (x0 - x0_before). D is x0 in the first step, in a step to data and after one from a level without
    signal. Second order without noise; on even times from a level without signal the error has one factor more, of the
    logarithm of their number. One evaluation a step. `eta` between 0 and 1 is k-diffusion's (sample_dpmpp_2m_sde,
    midpoint).
    """

    def __init__(self, config: DPMSolverPP2MConfig | DPMSolverPP2MSDEConfig, site: Site | None = None) -> None:
        self.eta, self.noise = (config.eta, config.noise) if isinstance(config, DPMSolverPP2MSDEConfig) else (0.0, 0.0)

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
        before: Tensor | None = None
        for i in steps:
            x0, h = steps.x0(i, x), steps.h(i)
            g = self.eta * h if self.eta else 0.0  # h may be infinite
            direction = x0
            if before is not None and math.isfinite(h):
                direction = x0 + (0.5 * h / steps.h(i - 1)) * (x0 - before)
            keep = steps.sigma[i + 1] / steps.sigma[i] * math.exp(-g)
            after = keep * x - (steps.alpha[i + 1] * math.expm1(-h - g)) * direction
            if steps.sigma[i + 1] > 0 and g > 0:
                std = self.noise * steps.sigma[i + 1] * math.sqrt(-math.expm1(-2 * g))
                after = after + std * steps.draw(x)
            before, x = x0, steps.done(i, after, x0)
        return x
