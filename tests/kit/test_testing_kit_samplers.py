"""The kit's suite of samplers, put to the test: right toys pass, and each fault fails the test that is to find it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from ldm_core.contracts import NoiseSchedule, Sampler
from ldm_core.testing import SamplerSuite
from ldm_core.testing.running import catalog_of, failures


@attrs.frozen(kw_only=True)
class Empty:
    pass


def faults_of(sampler: type, **attributes: Any) -> dict[str, str]:
    catalog = catalog_of("sampler", "toy", Empty, lambda config, site: sampler())
    return failures(type("Mine", (SamplerSuite,), {"component": "toy", "catalog": catalog, **attributes}))


class Euler(Sampler):
    """The probability flow by Euler steps in sigma / alpha, written as a step of x0 and eps."""

    def sample(
        self,
        denoise: Any,
        x: Tensor,
        times: Tensor,
        schedule: NoiseSchedule,
        *,
        streams: Any = None,
        on_step: Any = None,
    ) -> Tensor:
        for i, (now, after) in enumerate(pairwise(times)):
            x0 = denoise(x, now.expand(x.shape[0])).x0
            x = self.step(x, x0, schedule, now, after, streams)
            x = self.told(on_step, i, after, x, x0)
        return x

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        eps = (x - float(schedule.alpha(now)) * x0) / float(schedule.sigma(now))
        return float(schedule.alpha(after)) * x0 + float(schedule.sigma(after)) * eps

    def told(self, on_step: Any, i: int, after: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        other = on_step(i, after, x, x0) if on_step else None
        return x if other is None else other


class Ancestral(Euler):
    """Forgets part of eps and draws it anew: exact in the limit as well."""

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        if streams is None:
            raise ValueError("this sampler draws noise: give it streams")
        eps = (x - float(schedule.alpha(now)) * x0) / float(schedule.sigma(now))
        share = 0.3 * float((now - after) / schedule.t_max) ** 0.5
        eps = (1 - share**2) ** 0.5 * eps + share * self.noise(streams, x)
        return float(schedule.alpha(after)) * x0 + float(schedule.sigma(after)) * eps

    def noise(self, streams: Any, x: Tensor) -> Tensor:
        return streams.normal(x.shape).to(x)


class GlobalAncestral(Ancestral):
    def noise(self, streams: Any, x: Tensor) -> Tensor:
        return torch.randn_like(x)


class TooNoisy(Ancestral):
    """More noise than the level has; it vanishes with the steps."""

    def noise(self, streams: Any, x: Tensor) -> Tensor:
        return 1.01 * super().noise(streams, x)


class Biased(Euler):
    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        return super().step(x, 0.9 * x0, schedule, now, after, streams)


class ToData(Euler):
    """Hands back the estimate of x0, whatever level the times end at."""

    def sample(self, denoise: Any, x: Tensor, times: Tensor, schedule: Any, **others: Any) -> Tensor:
        x = super().sample(denoise, x, times, schedule, **others)
        return denoise(x, times[-1].expand(x.shape[0])).x0


class CountsFromOne(Euler):
    def told(self, on_step: Any, i: int, after: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        return super().told(on_step, i + 1, after, x, x0)


class Deaf(Euler):
    def told(self, on_step: Any, i: int, after: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        super().told(on_step, i, after, x, x0)
        return x


class Swallows(Euler):
    def told(self, on_step: Any, i: int, after: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        try:
            return super().told(on_step, i, after, x, x0)
        except Exception:
            return x


class Remembers(Euler):
    last: Tensor | None = None

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        before, self.last = self.last, x0.detach()
        if before is not None and before.shape == x0.shape:
            x0 = x0 + 0.05 * float((now - after) / schedule.t_max) * (x0 - before)
        return super().step(x, x0, schedule, now, after, streams)


class DividesByAlpha(Euler):
    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        ratio = schedule.sigma(now) / schedule.alpha(now)
        eps = (x / schedule.alpha(now) - x0) / ratio
        return (schedule.alpha(after) * x0 + schedule.sigma(after) * eps).to(x.dtype)


class NoGradient(Euler):
    def sample(self, denoise: Any, x: Tensor, times: Tensor, schedule: Any, **others: Any) -> Tensor:
        with torch.no_grad():
            return super().sample(denoise, x, times, schedule, **others)


class ScalarTime(Euler):
    def sample(self, denoise: Any, x: Tensor, times: Tensor, schedule: Any, **others: Any) -> Tensor:
        return super().sample(lambda x, t: denoise(x, t[0]), x, times, schedule, **others)


@pytest.mark.parametrize(
    ("sampler", "test"),
    [
        (Euler, None),
        (Biased, "test_converges_to_the_exact_solution"),
        (Ancestral, None),
        (TooNoisy, "test_data_of_one_point_is_exact"),
        (GlobalAncestral, "test_leaves_the_global_generators_alone"),
        (GlobalAncestral, "test_noise_comes_from_the_streams"),
        (ToData, "test_ends_at_the_last_time"),
        (CountsFromOne, "test_on_step_is_called_after_each_step"),
        (Deaf, "test_on_step_replaces_x"),
        (Swallows, "test_on_step_can_cancel"),
        (Remembers, "test_keeps_no_history"),
        (DividesByAlpha, "test_is_finite_everywhere"),
        (NoGradient, "test_gradients_pass"),
        (ScalarTime, "test_outputs_are_finite"),
    ],
)
def test_samplers(sampler: type, test: str | None) -> None:
    found = faults_of(sampler)
    assert test in found if test else not found, found


class Heun(Euler):
    """The trapezoid rule of x0, in units of sigma / alpha: second order; the last step, to sigma 0, is Euler's."""

    def sample(self, denoise: Any, x: Tensor, times: Tensor, schedule: Any, **others: Any) -> Tensor:
        self.denoise, self.times = denoise, times
        return super().sample(denoise, x, times, schedule, **others)

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        first = super().step(x, x0, schedule, now, after, streams)
        if float(schedule.sigma(after)) == 0:
            return first
        second = self.denoise(first, after.expand(x.shape[0])).x0
        # dy/dr = eps for y = x / alpha and r = sigma / alpha, written so that alpha(now) may be 0
        a, s, b, u = (float(f(t)) for t in (now, after) for f in (schedule.alpha, schedule.sigma))
        slope_now = (x - a * x0) / s
        slope_after = (first - b * second) / u
        if a == 0:
            return first
        return b * x / a + (u - b * s / a) * 0.5 * (slope_now + slope_after)


def test_a_second_order_sampler_reaches_order_2() -> None:
    found = faults_of(Heun, order=2.0)
    assert not found, found


def test_the_order_can_be_measured_where_lambda_is_even() -> None:
    found = faults_of(Heun, order=2.0, spacing="log_snr")
    assert not found, found
    assert (
        "order of convergence" in faults_of(Euler, order=2.0, spacing="log_snr")["test_converges_to_the_exact_solution"]
    )
    assert not faults_of(TooNoisy, exact_noise=False)


def test_dividing_by_alpha_can_be_said_openly() -> None:
    assert not faults_of(DividesByAlpha, divides_by_alpha=True)


def test_a_claimed_order_is_measured() -> None:
    found = faults_of(Euler, order=2.0)
    assert "is 0.9" in found["test_converges_to_the_exact_solution"]
    assert ", not 2" in found["test_converges_to_the_exact_solution"]
