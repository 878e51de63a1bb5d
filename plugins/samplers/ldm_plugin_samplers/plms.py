"""The pseudo linear multistep method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import FAR, Steps
from ldm_plugin_samplers.config import PLMSConfig

Project: TypeAlias = "Callable[[Tensor], Tensor] | None"
WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth's weights of orders 1 to 4, the newest estimate first."""


class PLMSSampler(Sampler):
    """DDIM's rule with a mean of the last four eps (Liu et al. 2022, arXiv 2202.09778, equations 11 and 12).

    The weights are those of even times. The growth of sigma / alpha, by which eps is weighted, is not even: the method
    has second order whatever their number (the paper's section 3.5). The first step asks the model twice, all others
    once. It divides by alpha(times[i]), but for a first step from next to no signal.
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
        steps = Steps(denoise, times, schedule, streams, on_step)
        history: list[Tensor] = []  # eps, the newest first
        for i in steps:
            estimate = steps.estimate(i, x)
            x0 = estimate.x0.to(x.dtype)
            history = [steps.eps(i, x, x0), *history[:3]]
            if i == 0:
                after = first_step(steps, x, x0, history[0], estimate.project)
            else:
                mean = torch.zeros_like(x)
                for weight, eps in zip(WEIGHTS[len(history) - 1], history, strict=True):
                    mean = mean + weight * eps
                after = transferred(steps, i, x, mean, estimate.project)
            x = steps.done(i, after, estimate.data.to(x.dtype))
        return x


def first_step(steps: Steps, x: Tensor, x0: Tensor, eps: Tensor, project: Project) -> Tensor:
    """x after a pseudo improved Euler step, as the published LDM code begins; Euler's in a step to data.

    Where sigma / alpha falls by more than a factor of 50, as from a level with next to no signal, eps says little of
    x0: the mean is of x0 there.
    """
    probe = transferred(steps, 0, x, eps, project) if project else steps.euler(0, x, x0)
    if steps.sigma[1] == 0:
        return probe
    second = steps.x0(1, probe)
    if steps.h(0) < FAR:
        return transferred(steps, 0, x, (eps + steps.eps(1, probe, second)) / 2, project)
    mean = (x0 + second) / 2
    return steps.euler(0, x, mean if project is None else project(mean))


def transferred(steps: Steps, i: int, x: Tensor, eps: Tensor, project: Project) -> Tensor:
    """x after step i under this eps (equation 11); `project` is applied to the x0 of x and eps."""
    if project is not None:
        x0 = project((x - steps.sigma[i] * eps) / steps.alpha[i])
        return steps.alpha[i + 1] * x0 + steps.sigma[i + 1] * eps
    grow = steps.alpha[i + 1] / steps.alpha[i]
    return grow * x + (steps.sigma[i + 1] - grow * steps.sigma[i]) * eps
