"""The unified predictor-corrector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ldm_core import Sampler
from ldm_core.contracts import Denoise, NoiseSchedule, OnStep, Site
from ldm_core.contracts.streams import Streams
from ldm_plugin_samplers.config import UniPCConfig
from ldm_plugin_samplers.walk import Walk


class UniPCSampler(Sampler):
    """UniP and UniC in x0 (Zhao et al. 2023, arXiv 2302.04867, algorithms 7 and 8, multistep).

    A step of order p puts a polynomial in lambda = ln(alpha / sigma) through p estimates of x0 and integrates it
    exactly: x becomes sigma' / sigma x + alpha' ((1 - e^-h) x0 + sum of w_j (x0_j - x0)). When the model has been asked
    at the new level, the same step is done over with that estimate as one more point, which corrects x at no cost; the
    next step begins there. B(h), h or e^h - 1 in the paper, cancels out of the w_j but where there is one difference
    and its weight is B(h) / 2: the predictor of order 2 and the corrector of order 1.

    Order p with corrector is p + 1 in the paper's count of local errors, and p of convergence without; deterministic,
    one evaluation a step. The first steps have the orders 1, 2, ..., and so have the last ones, backwards, with
    `lower_order_final`; a step to data is always of order 1. An x that `on_step` has replaced is not corrected.
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
        walk = Walk(denoise, times, schedule, on_step)
        estimates: list[Tensor] = []  # the newest first, at most as many as the order
        begun: Tensor | None = None  # x at the beginning of the step that is to be corrected
        order = 1
        for i in walk:
            x0 = walk.x0(i, x)
            if begun is not None and self.config.corrector:
                x = self._step(walk, i - 1, begun, estimates[:order], x0)
            estimates = [x0, *estimates[: self.config.order - 1]]
            order = self._order(walk, i, len(estimates))
            begun = x
            predicted = self._step(walk, i, x, estimates[:order])
            x = walk.told(i, predicted, x0)
            if x is not predicted:
                begun = None
        return x

    def _order(self, walk: Walk, i: int, estimates: int) -> int:
        """The order of step i: what the estimates at hand allow, less towards the end."""
        if math.isinf(walk.interval(i)):
            return 1
        usable = sum(math.isfinite(walk.lambdas[i - j]) for j in range(estimates))
        left = len(walk.times) - 1 - i if self.config.lower_order_final else usable
        return min(usable, left)

    def _step(self, walk: Walk, i: int, x: Tensor, estimates: Sequence[Tensor], after: Tensor | None = None) -> Tensor:
        """Step i from x with the estimates at times[i], times[i - 1], ..., and the one at times[i + 1] if given."""
        h, x0 = walk.interval(i), estimates[0]
        others = list(estimates[1:])
        nodes = [(walk.lambdas[i - j] - walk.lambdas[i]) / h for j in range(1, len(estimates))]
        if after is not None:
            others, nodes = [*others, after], [*nodes, 1.0]
        out = walk.sigmas[i + 1] / walk.sigmas[i] * x - (walk.alphas[i + 1] * math.expm1(-h)) * x0
        for weight, other in zip(self._weights(h, nodes), others, strict=True):
            out = out + (walk.alphas[i + 1] * weight) * (other - x0)
        return out

    def _weights(self, h: float, nodes: Sequence[float]) -> list[float]:
        """The weight of each difference; `nodes` say where in the step it is: 0 its beginning, 1 its end."""
        if not nodes:
            return []
        if len(nodes) == 1:
            b = h if self.config.variant == "bh1" and math.isfinite(h) else -math.expm1(-h)
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
