"""What all samplers of this distribution share: the coefficients at the run's levels, and the steps of first order.

The probability flow has two forms of the same equation, d(x / alpha) / d(sigma / alpha) = eps and d(x / sigma) /
d(alpha / sigma) = x0 (both follow from x = alpha x0 + sigma eps and eps' sigma = -x0' alpha along it). The first one
is singular where alpha is 0, the second where sigma is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from ldm_core.contracts import Denoise, Estimate, NoiseSchedule, OnStep
from ldm_core.contracts.streams import Streams

FAR = math.log(50)
"""A step of lambda beyond which an average of eps would drown in the error of x0: eps' error is divided by alpha, which
is next to nothing at such a step's beginning. Published tables take no such steps; the cosine table's first one is."""


class Walk:
    """One run down `times`: its coefficients as double-precision numbers, and its calls of model and observer.

    `alphas`, `sigmas` and `lambdas` have an entry for each time; lambda = ln(alpha / sigma), half the log
    signal-to-noise ratio, is -inf without signal and inf at data.
    """

    def __init__(
        self,
        denoise: Denoise,
        times: Tensor,
        schedule: NoiseSchedule,
        on_step: OnStep | None,
        streams: Streams | None = None,
    ) -> None:
        self.times = times
        self.alphas: list[float] = schedule.alpha(times).tolist()
        self.sigmas: list[float] = schedule.sigma(times).tolist()
        self.lambdas = [_log(a) - _log(s) for a, s in zip(self.alphas, self.sigmas, strict=True)]
        self._denoise, self._on_step, self._streams = denoise, on_step, streams

    def __iter__(self) -> Iterator[int]:
        """The steps: number i goes from times[i] to times[i + 1]."""
        return iter(range(len(self.times) - 1))

    def x0(self, i: int, x: Tensor) -> Tensor:
        """The model's estimate from x (B, ...) at times[i], in x's dtype."""
        return self.estimate(i, x).x0.to(x.dtype)

    def estimate(self, i: int, x: Tensor) -> Estimate:
        """The model's estimate from x (B, ...) at times[i], whole."""
        return self._denoise(x, self.times[i].to(x.device).expand(x.shape[0]))

    def eps(self, i: int, x: Tensor, x0: Tensor) -> Tensor:
        """The noise that x at times[i] and an estimate of x0 imply."""
        return (x - self.alphas[i] * x0) / self.sigmas[i]

    def euler(self, i: int, x: Tensor, x0: Tensor) -> Tensor:
        """Step i with x0, and so eps, held constant: x becomes alpha x0 + sigma eps."""
        keep = self.sigmas[i + 1] / self.sigmas[i]
        return keep * x + (self.alphas[i + 1] - self.alphas[i] * keep) * x0

    def interval(self, i: int) -> float:
        """h, the growth of lambda over step i; inf where it begins without signal or ends at data."""
        return self.lambdas[i + 1] - self.lambdas[i]

    def noise(self, x: Tensor, sampler: str) -> Tensor:
        """Fresh noise like x, from each example's stream; ValueError naming `sampler` if there are no streams."""
        if self._streams is None:
            raise ValueError(f"the {sampler} sampler draws noise: hand it streams, one seed an example")
        return self._streams.normal(x.shape).to(x)

    def told(self, i: int, x: Tensor, x0: Tensor) -> Tensor:
        """x after step i, or what the observer puts in its place."""
        other = None if self._on_step is None else self._on_step(i, self.times[i + 1], x, x0)
        return x if other is None else other


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
