"""The pseudo linear multistep method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_plugin_samplers.config import PLMSConfig
from ldm_plugin_samplers.walk import FAR, Walk

WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth's weights of orders 1 to 4, the newest estimate first."""


class PLMSSampler(Sampler):
    """Carries x by DDIM's rule with a mean of the last four eps (Liu et al. 2022, arXiv 2202.09778, equations 11 and
    12), begun as in the published LDM code by one pseudo improved Euler step.

    The weights are those of even times. As eps is weighted by the growth of sigma / alpha, which is not even, the
    method is of second order whatever their number (the paper's section 3.5). The first step asks the model twice,
    all others once. Where sigma / alpha falls by more than a factor of 50 in it, as from a level with next to no
    signal, where eps says little of x0, it averages x0 in place of eps. Divides by alpha(times[i]) else.
    """

    def __init__(self, config: PLMSConfig, site: Site | None = None) -> None:
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
        history: list[Tensor] = []  # the newest first
        for i in walk:
            estimate = walk.estimate(i, x)
            x0, project = estimate.x0.to(x.dtype), estimate.project
            history = [walk.eps(i, x, x0), *history[:3]]
            if i == 0 and walk.sigmas[1] > 0:
                probe = _carried(walk, 0, x, history[0], project) if project else walk.euler(0, x, x0)
                second = walk.x0(1, probe)
                if walk.interval(0) < FAR:
                    after = _carried(walk, 0, x, (history[0] + walk.eps(1, probe, second)) / 2, project)
                else:
                    mean = (x0 + second) / 2
                    after = walk.euler(0, x, mean if project is None else project(mean))
            elif i == 0:
                after = _carried(walk, 0, x, history[0], project) if project else walk.euler(0, x, x0)
            else:
                mean = torch.zeros_like(x)
                for weight, eps in zip(WEIGHTS[len(history) - 1], history, strict=True):
                    mean = mean + weight * eps
                after = _carried(walk, i, x, mean, project)
            x = walk.told(i, after, estimate.data.to(x.dtype))
        return x


def _carried(walk: Walk, i: int, x: Tensor, eps: Tensor, project: Callable[[Tensor], Tensor] | None) -> Tensor:
    """x after step i if this eps were the right one (equation 11); `project` is applied to the x0 that it implies."""
    if project is not None:
        x0 = project((x - walk.sigmas[i] * eps) / walk.alphas[i])
        return walk.alphas[i + 1] * x0 + walk.sigmas[i + 1] * eps
    grow = walk.alphas[i + 1] / walk.alphas[i]
    return grow * x + (walk.sigmas[i + 1] - grow * walk.sigmas[i]) * eps
