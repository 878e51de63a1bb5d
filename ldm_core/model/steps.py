"""The steps of a sampler: its levels' coefficients, the calls of model and observer, the noise that it draws.

Authors of samplers build on :class:`Steps`; diffusion's signs are those of the papers. The probability flow has two
forms of one equation, d(x / alpha) / d(sigma / alpha) = eps and d(x / sigma) / d(alpha / sigma) = x0: both follow from
x = alpha x0 + sigma eps and sigma eps' = -alpha x0' along it. The first one is singular at alpha = 0, the second one at
sigma = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ldm_core.contracts import Denoise, Estimate, NoiseSchedule, OnStep, PartAnswers, TimeGrid, grid_times
from ldm_core.contracts.configs import of
from ldm_core.contracts.streams import Streams

FAR = math.log(50)
"""A step of lambda beyond which a mean of eps would drown in the error of x0: eps' error is divided by alpha, next to
nothing at the beginning of such a step. Published tables take no such steps; the cosine table's first one is."""


class Steps:
    """One run of a sampler down `times`: iterate over it for the steps' numbers, step i from times[i] to times[i + 1].

    `alpha`, `sigma` and `lambda_` hold a double-precision number for each time; lambda = ln(alpha / sigma), half the
    log signal-to-noise ratio, is -inf without signal and inf at data. A method that asks between two times calls
    `denoise` itself, at a t with ``schedule.alpha(t)`` and ``schedule.sigma(t)``; sigma / alpha increases with t, so a
    level is found by bisection. The arguments are those of :meth:`ldm_core.contracts.Sampler.sample`::

        def sample(self, denoise, x, times, schedule, *, streams=None, on_step=None):
            steps = Steps(denoise, times, schedule, streams, on_step)
            for i in steps:
                x0 = steps.x0(i, x)
                x = steps.done(i, steps.euler(i, x, x0), x0)
            return x

    A method of several steps keeps earlier estimates in a list of its own, on the axis `lambda_`. Where ``h(i)`` is
    inf, at either end, a step of first order is right: :meth:`euler` holds there. :meth:`eps` divides by sigma, which
    is 0 at data alone.
    """

    def __init__(
        self,
        denoise: Denoise,
        times: Tensor,
        schedule: NoiseSchedule,
        streams: Streams | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.times = times
        self.alpha: list[float] = schedule.alpha(times).tolist()
        self.sigma: list[float] = schedule.sigma(times).tolist()
        self.lambda_ = [_log(a) - _log(s) for a, s in zip(self.alpha, self.sigma, strict=True)]
        self._denoise, self._streams, self._on_step = denoise, streams, on_step

    def __len__(self) -> int:
        return len(self.times) - 1

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def estimate(self, i: int, x: Tensor) -> Estimate:
        """The model's estimate from x (B, ...) at times[i]."""
        return self._denoise(x, self.times[i].to(x.device).expand(x.shape[0]))

    def x0(self, i: int, x: Tensor) -> Tensor:
        """The estimated x0 from x (B, ...) at times[i], in x's dtype."""
        return self.estimate(i, x).x0.to(x.dtype)

    def eps(self, i: int, x: Tensor, x0: Tensor) -> Tensor:
        """The noise in x at times[i], given x0."""
        return (x - self.alpha[i] * x0) / self.sigma[i]

    def h(self, i: int) -> float:
        """The growth of lambda over step i; inf from a level without signal and to data."""
        return self.lambda_[i + 1] - self.lambda_[i]

    def added_variance(self, i: int, end: int | None = None) -> float:
        """The noise's variance from s = times[end], by default times[i + 1], to t = times[i].

        It is sigma_t² - (alpha_t / alpha_s)² sigma_s², and divides by alpha_s.
        """
        end = i + 1 if end is None else end
        ratio = self.alpha[i] / self.alpha[end]
        return max(self.sigma[i] ** 2 - (ratio * self.sigma[end]) ** 2, 0.0)

    def ddim(self, i: int, eta: float) -> tuple[float, float]:
        """DDIM's step i (Song et al. 2020, equations 12 and 16): `keep` of :meth:`euler`, and the standard deviation of
        the noise to draw, eta sigma_s / sigma_t sqrt(:meth:`added_variance`). With eta > 0 it divides by alpha_s."""
        sigma_t, sigma_s = self.sigma[i : i + 2]
        fresh = eta * sigma_s / sigma_t * math.sqrt(self.added_variance(i)) if eta > 0 else 0.0
        return math.sqrt(max(sigma_s**2 - fresh**2, 0.0)) / sigma_t, fresh

    def euler(self, i: int, x: Tensor, x0: Tensor, keep: float | None = None) -> Tensor:
        """x after step i with x0, and so eps, held constant: alpha' x0 + keep sigma eps, where `keep` sigma is sigma'
        unless it is given."""
        keep = self.sigma[i + 1] / self.sigma[i] if keep is None else keep
        return keep * x + (self.alpha[i + 1] - self.alpha[i] * keep) * x0

    def draw(self, x: Tensor) -> Tensor:
        """Standard normal noise like x, from each example's own stream; ValueError without streams."""
        if self._streams is None:
            raise ValueError("this sampler draws noise: give it `streams`, one seed an example")
        return self._streams.normal(x.shape).to(x)

    def done(self, i: int, x: Tensor, x0: Tensor) -> Tensor:
        """Tell the observer of x after step i and of its x0; give back x, or the observer's own in its place."""
        other = None if self._on_step is None else self._on_step(i, self.times[i + 1], x, x0)
        return x if other is None else other


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def log_ratio(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Give ln(sigma / alpha) at t, of t's shape, float64: minus half the log signal-to-noise ratio."""
    return schedule.sigma(t).log() - schedule.alpha(t).log()


def time_at(schedule: NoiseSchedule, wanted: Tensor) -> Tensor:
    """Find the times in [0, t_max] of the values `wanted` of ln(sigma / alpha), of their shape, float64.

    By bisection, to the last bit: by contract the ratio increases, and no more is known. Values beyond the schedule's
    ends give its ends.
    """
    low = torch.zeros_like(wanted, dtype=torch.float64)
    high = torch.full_like(low, float(schedule.t_max))
    for _ in range(1100):  # the exponents of double precision are passed one by one where t is near 0
        middle = (low + high) / 2
        if bool(((middle == low) | (middle == high)).all()):
            break
        above = log_ratio(schedule, middle) > wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


class ScaledLatentsGrid(TimeGrid):
    """The times of another grid, for latents z of `scale` times their size beside the noise.

    A model of x = alpha z + sigma eps knows alpha scale z + sigma eps as well: up to a factor, its own x at another
    level, of 1 / scale times the sigma / alpha. Each time of the grid moves to this level. Below 1 the noise grows, and
    t_max is the noisiest level there is: the grid is first drawn together to stay within it. Above 1 its first level
    stays, as a run begins from noise.
    """

    def __init__(self, grid: TimeGrid, scale: float) -> None:
        self._grid, self._scale = grid, scale
        self.config = of(PartAnswers, grid).config

    def times(self, schedule: NoiseSchedule, steps: int, *, shape: Sequence[int] | None = None) -> Tensor:
        """Give `steps` + 1 levels for latents (C, *s) of `shape`; ValueError as the grid raises it."""
        times = grid_times(self._grid, schedule, steps, shape).double()
        end, shift = torch.tensor(float(schedule.t_max), dtype=torch.float64), -math.log(self._scale)
        top = log_ratio(schedule, end) - shift
        begin = time_at(schedule, top) if shift > 0 and bool(top.isfinite()) else end
        drawn = times * (begin / end)
        noisy, moved = drawn > 0, drawn.clone()
        moved[noisy] = time_at(schedule, log_ratio(schedule, drawn[noisy]) + shift)
        if shift < 0 or times[0] == end:
            moved[0] = times[0]
        return moved
