"""DPM-Solver++ of second order with two-step memory, deterministic and with noise."""

from __future__ import annotations

import math

from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_plugin_samplers.config import DPMSolverPP2MConfig, DPMSolverPP2MSDEConfig
from ldm_plugin_samplers.walk import Walk


class DPMSolverPP2MSampler(Sampler):
    """Exponential integrator of x0 in lambda = ln(alpha / sigma), extrapolated from two estimates (Lu et al. 2022,
    arXiv 2211.01095): algorithm 2, and with noise its SDE counterpart (section 4.3 and appendix B).

    With h the growth of lambda and g = eta h: x becomes sigma' / sigma e^-g x + alpha' (1 - e^-(h + g)) D + sigma'
    sqrt(1 - e^-2g) noise, D = x0 + h / (2 h_before) (x0 - x0_before). D is x0 in the first step, in the step to data,
    and after one that began without signal. Second order without noise, where lambda is refined everywhere; on even
    times from a level without signal it is not, and costs the error a factor that grows with the logarithm of their
    number. One evaluation a step. `eta` between 0 and 1 is k-diffusion's (sample_dpmpp_2m_sde, midpoint).
    """

    def __init__(self, config: DPMSolverPP2MConfig | DPMSolverPP2MSDEConfig, site: Site | None = None) -> None:
        self.eta, self.noise = 0.0, 0.0
        if isinstance(config, DPMSolverPP2MSDEConfig):
            self.eta, self.noise = config.eta, config.noise

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
        before: Tensor | None = None
        for i in walk:
            x0, h = walk.x0(i, x), walk.interval(i)
            g = self.eta * h if self.eta else 0.0  # h may be infinite
            direction = x0
            if before is not None and math.isfinite(h):
                direction = x0 + (0.5 * h / walk.interval(i - 1)) * (x0 - before)
            keep = walk.sigmas[i + 1] / walk.sigmas[i] * math.exp(-g)
            after = keep * x - (walk.alphas[i + 1] * math.expm1(-h - g)) * direction
            if walk.sigmas[i + 1] > 0 and g > 0:
                std = self.noise * walk.sigmas[i + 1] * math.sqrt(-math.expm1(-2 * g))
                after = after + std * walk.noise(x, "dpm_solver_pp_2m_sde")
            before, x = x0, walk.told(i, after, x0)
        return x
