"""The unified predictor-corrector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps
from ldm_plugin_samplers.config import UniPCConfig


class UniPCSampler(Sampler):
    """UniP and UniC in x0 (Zhao et al. 2023, arXiv 2302.04867, algorithms 7 and 8, multistep).

    A predictor of order p integrates a polynomial in lambda through p estimates of x0; the corrector does the step over
    with the estimate at its end as one more point, at no cost. Order p with corrector is p + 1 in the paper's count of
    local errors. Deterministic, one evaluation a step. The first steps have the orders 1, 2, ..., and so have the last
    ones, backwards, with `lower_order_final`; a step to data has order 1. An x from `on_step` is not corrected.
    """

    def __init__(self, config: UniPCConfig, site: Site | None = None) -> None:
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
        variant, order = self.config.variant, 1
        estimates: list[Tensor] = []  # the newest first, at most as many as the order
        begun: Tensor | None = None  # x at the beginning of the step that is to be corrected
        for i in steps:
            x0 = steps.x0(i, x)
            if begun is not None and self.config.corrector:
                x = integrated(steps, i - 1, begun, estimates[:order], x0, variant=variant)
            estimates = [x0, *estimates[: self.config.order - 1]]
            order = order_of(steps, i, len(estimates), lower_final=self.config.lower_order_final)
            predicted = integrated(steps, i, x, estimates[:order], variant=variant)
            begun, x = x, steps.done(i, predicted, x0)
            if x is not predicted:
                begun = None
        return x


def order_of(steps: Steps, i: int, estimates: int, *, lower_final: bool) -> int:
    """The order of step i: as many estimates as are usable, fewer towards the end with `lower_final`."""
    if math.isinf(steps.h(i)):
        return 1
    usable = sum(math.isfinite(steps.lambda_[i - j]) for j in range(estimates))
    return min(usable, len(steps) - i) if lower_final else usable


def integrated(
    steps: Steps, i: int, x: Tensor, estimates: Sequence[Tensor], after: Tensor | None = None, *, variant: str
) -> Tensor:
    """x after step i: sigma' / sigma x + alpha' ((1 - e^-h) x0 + sum of w_j (x0_j - x0)).

    `estimates` are those at times[i], times[i - 1], ...; `after` is the one at times[i + 1], for the corrector.
    """
    h, x0 = steps.h(i), estimates[0]
    others = list(estimates[1:])
    nodes = [(steps.lambda_[i - j] - steps.lambda_[i]) / h for j in range(1, len(estimates))]
    if after is not None:
        others, nodes = [*others, after], [*nodes, 1.0]
    out = steps.sigma[i + 1] / steps.sigma[i] * x - (steps.alpha[i + 1] * math.expm1(-h)) * x0
    for weight, other in zip(weights(h, nodes, variant), others, strict=True):
        out = out + (steps.alpha[i + 1] * weight) * (other - x0)
    return out


def weights(h: float, nodes: Sequence[float], variant: str) -> list[float]:
    """The weights w_j of the differences at `nodes`: 0 is the step's beginning, 1 its end.

    The paper's B(h), h or e^h - 1, cancels out of them; of a single one it is left as B(h) / 2.
    """
    if not nodes:
        return []
    if len(nodes) == 1:
        b = h if variant == "bh1" and math.isfinite(h) else -math.expm1(-h)
        return [b / 2 / nodes[0]]
    powers = torch.tensor([[r**k for r in nodes] for k in range(1, len(nodes) + 1)], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(moments(h, len(nodes)), dtype=torch.float64)).tolist()


def moments(h: float, count: int) -> list[float]:
    """h times the integral of e^(-h (1 - s)) s^k over s in [0, 1], for k = 1 to `count`; h above 0."""
    if h > 1:  # by parts; below, where that would cancel, by the series
        found = [-math.expm1(-h)]
        for k in range(1, count + 1):
            found.append(1 - k * found[-1] / h)
        return found[1:]
    return [
        math.fsum(h * math.factorial(k) * (-h) ** n / math.factorial(n + k + 1) for n in range(24))
        for k in range(1, count + 1)
    ]
