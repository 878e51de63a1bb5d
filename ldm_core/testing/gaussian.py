"""The exactly solvable problem: data of one Gaussian per value, where denoiser, flow and moments have closed
forms.

Data N(m, s²), independent in every value. With x = alpha x0 + sigma eps and v = alpha² s² + sigma²: the best
estimate is E[x0 | x] = m + alpha s² / v (x - alpha m), and the probability flow carries x from level t to
level u as alpha_u m + sqrt(v_u / v_t) (x - alpha_t m).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import attrs
import torch
from torch import Tensor

from ldm_core.contracts import Denoise, Estimate, NoiseSchedule, Sampler
from ldm_core.contracts.streams import Streams


class FlowSchedule(NoiseSchedule):
    """Rectified flow: alpha = 1 - t, sigma = t, t in [0, 1]; alpha is 0 at the end."""

    t_max = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t, float64."""
        return 1 - t.double()

    def sigma(self, t: Tensor) -> Tensor:
        """t, float64."""
        return t.double()

    def noise_level(self, t: Tensor) -> Tensor:
        """1000 t."""
        return 1000 * t.float()

    def draw(self, u: Tensor) -> Tensor:
        """(0, 1]."""
        return 1 - u.double()


class VESchedule(NoiseSchedule):
    """Variance exploding: alpha = 1, sigma = t (Karras et al. 2022), t in [0, 20]."""

    t_max = 20.0

    def alpha(self, t: Tensor) -> Tensor:
        """1, float64."""
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        """t, float64."""
        return t.double()

    def noise_level(self, t: Tensor) -> Tensor:
        """ln(sigma) / 4."""
        return t.double().clamp(min=1e-3).log().float() / 4

    def draw(self, u: Tensor) -> Tensor:
        """(0, 20]."""
        return self.t_max * (1 - u.double())


@attrs.frozen
class Gaussian:
    """Data N(mean, std²) in every value."""

    mean: float = 0.4
    std: float = 0.5

    def marginal(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x at level t, of t's shape, float64."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return alpha * self.mean, (alpha**2 * self.std**2 + sigma**2).sqrt()

    def denoise(self, schedule: NoiseSchedule) -> Denoise:
        """The exact denoiser (x (B, ...), t (B,)) -> Estimate, in x's dtype, which must not be below
        float32."""

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            shape = (-1, *[1] * (x.dim() - 1))
            alpha, sigma = schedule.alpha(t).view(shape), schedule.sigma(t).view(shape)
            gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
            return Estimate((self.mean + gain * (x.double() - alpha * self.mean)).to(x.dtype))

        return estimate

    def flow(self, schedule: NoiseSchedule, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Carry x from level `start` () to level `end` () along the probability flow, exactly; float64."""
        (mean_a, std_a), (mean_b, std_b) = self.marginal(schedule, start), self.marginal(schedule, end)
        return mean_b + std_b / std_a * (x.double() - mean_a)


class _UnitStreams:
    """Stands in for :class:`Streams`: draw number n is the unit vector n + 1 (or 0), so that none mix."""

    def __init__(self, width: int, *, silent: bool = False) -> None:
        self.width, self.silent, self.drawn = width, silent, 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next unit vector, of shape (1, width)."""
        if tuple(shape) != (1, self.width):
            raise ValueError(f"the sampler drew noise of shape {tuple(shape)} for x of shape {(1, self.width)}")
        self.drawn += 1
        if self.drawn >= self.width:
            raise ValueError(f"the sampler drew noise more than {self.width - 1} times")
        out = torch.zeros(1, self.width, dtype=torch.float64)
        if not self.silent:
            out[0, self.drawn] = 1.0
        return out


def moments(sampler: Sampler, schedule: NoiseSchedule, times: Tensor, problem: Gaussian) -> tuple[float, float]:
    """Mean and standard deviation of the samples that `sampler` makes of the exact x at times[0]; no sampling error.

    The exact denoiser is affine, so the output is affine in the first x and in each noise. Every one of them
    gets a coordinate of its own, and the variance is the sum of the squares. For samplers that are affine in
    the estimates.
    """
    width = 4 * len(times) + 2
    mean, std = (float(v) for v in problem.marginal(schedule, times[0]))
    start = torch.zeros(1, width, dtype=torch.float64)
    start[0, 0] = std
    spread = attrs.evolve(problem, mean=0.0).denoise(schedule)
    unit = cast(Streams, _UnitStreams(width))
    variance = sampler.sample(spread, start, times, schedule, streams=unit).square().sum()
    silent = cast(Streams, _UnitStreams(width, silent=True))
    centre = sampler.sample(problem.denoise(schedule), torch.full_like(start, mean), times, schedule, streams=silent)
    return float(centre[0, 0]), float(variance.sqrt())


def flow_error(sampler: Sampler, schedule: NoiseSchedule, times: Tensor, problem: Gaussian) -> float:
    """Greatest error of a deterministic sampler against the exact flow, over x of ±2 standard deviations,
    float64."""
    mean, std = problem.marginal(schedule, times[0])
    x = (mean + std * torch.linspace(-2, 2, 5, dtype=torch.float64))[None]
    found = sampler.sample(problem.denoise(schedule), x, times, schedule)
    return float((found - problem.flow(schedule, x, times[0], times[-1])).abs().max())


def graded_times(start: float, end: float, steps: int) -> Tensor:
    """`steps` intervals from level `start` down to `end`, float64, shorter and shorter towards `end`.

    Near data sigma / alpha may go like sqrt(t); even steps would show that and not the sampler's own order.
    """
    return end + (start - end) * torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 3


def log_snr_times(schedule: NoiseSchedule, steps: int, *, highest: float = 50.0, lowest: float = 0.02) -> Tensor:
    """`steps` intervals even in ln(sigma / alpha), from `highest` (or t_max, if that is lower) to `lowest`, float64.

    Methods that integrate in this variable show their order only if every interval of it shrinks. Even times do not
    shrink those near a level without signal, nor those near data.
    """

    def ratio(t: Tensor) -> Tensor:
        return (schedule.sigma(t) / schedule.alpha(t)).log()

    end = torch.tensor(float(schedule.t_max), dtype=torch.float64)
    top = min(math.log(highest), float(ratio(end)))
    wanted = torch.linspace(top, math.log(lowest), steps + 1, dtype=torch.float64)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, float(end))
    for _ in range(64):
        middle = (low + high) / 2
        above = ratio(middle) > wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


def order_of_convergence(
    sampler: Sampler, schedule: NoiseSchedule, problem: Gaussian, *, steps: int = 64, end: float = 0.0
) -> float:
    """log2 of the error's fall from `steps` to twice as many, from t_max to level `end`: 1 for Euler, 2 for Heun."""
    coarse, fine = (
        flow_error(sampler, schedule, graded_times(schedule.t_max, end, n), problem) for n in (steps, 2 * steps)
    )
    return math.log2(coarse / fine)
