"""The suite of samplers: right ones pass, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from planted import Mistake, assert_found, assert_told, mistakes
from planted import faults_of as faults_of_suite
from torch import Tensor

from ldm_core.contracts import NoiseSchedule, Sampler
from ldm_core.testing import SamplerSuite

CONVERGES = "test_converges_to_the_exact_solution"


def faults_of(sampler: type, **attributes: Any) -> dict[str, str]:
    """The standard tests that a sampler without settings fails."""
    return faults_of_suite(SamplerSuite, sampler, **attributes)


class Euler(Sampler):
    """The probability flow by Euler steps in sigma / alpha, written as a step of x0 and eps."""

    def __init__(self, config: Any = None, site: Any = None) -> None:
        pass

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


class DividesByNumbers(Euler):
    """As most published samplers are written: in units of alpha, with Python's numbers."""

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        ratio = float(schedule.sigma(now)) / float(schedule.alpha(now))
        eps = (x / float(schedule.alpha(now)) - x0) / ratio
        return float(schedule.alpha(after)) * x0 + float(schedule.sigma(after)) * eps


class NoiseWithoutAsking(Euler):
    """Draws where it is given streams, and goes without where it is not."""

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        noise = streams.normal(x.shape).to(x)  # AttributeError without streams
        return super().step(x, x0, schedule, now, after, streams) + 0 * noise


class OneLevelShort(Euler):
    """Stops at the last level but one."""

    def sample(self, denoise: Any, x: Tensor, times: Tensor, schedule: Any, **others: Any) -> Tensor:
        return super().sample(denoise, x, times[:-1], schedule, **others)


class SkipsTheFirst(Euler):
    """Begins at the second level with the x of the first."""

    def sample(self, denoise: Any, x: Tensor, times: Tensor, schedule: Any, **others: Any) -> Tensor:
        return super().sample(denoise, x, times[1:] if len(times) > 2 else times, schedule, **others)


class OwnGenerator(Ancestral):
    """A generator of its own, seeded the same at each draw, in place of the streams."""

    def noise(self, streams: Any, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(x)


class OneStream(Ancestral):
    """The first row's noise for all rows."""

    def noise(self, streams: Any, x: Tensor) -> Tensor:
        return streams.normal(x.shape).to(x)[:1].expand_as(x)


class Mute(Euler):
    """Calls no on_step."""

    def told(self, on_step: Any, i: int, after: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        return x


class StepsInPlace(Euler):
    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        return x.copy_(super().step(x, x0, schedule, now, after, streams))


class Doubles(Euler):
    """Multiplies by float64 coefficients, and hands float64 back."""

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        return super().step(x, x0, schedule, now, after, streams) * torch.ones(1, dtype=torch.float64)


class LooksAhead(Euler):
    """Asks for a level below the last one."""

    def sample(self, denoise: Any, x: Tensor, times: Tensor, schedule: Any, **others: Any) -> Tensor:
        denoise(x, (0.5 * times[-1]).expand(x.shape[0]))
        return super().sample(denoise, x, times, schedule, **others)


class MeanOfTheBatch(Euler):
    """Centres x0 over the batch."""

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        return super().step(x, x0 - 0.1 * (x0.mean(0) - x0[:1].mean(0)), schedule, now, after, streams)


@pytest.mark.parametrize("sampler", [Euler, Ancestral])
def test_a_right_sampler_passes(sampler: type) -> None:
    assert not faults_of(sampler)


@mistakes(
    Mistake(Biased, CONVERGES, "after 128 steps on table the result is still off by"),
    Mistake(SkipsTheFirst, "test_data_of_one_point_is_exact", "2 steps on table, data of one point: x is off by"),
    Mistake(TooNoisy, "test_data_of_one_point_is_exact", "data of one point: x is off by"),
    Mistake(OneLevelShort, "test_data_of_one_point_is_exact", "1 steps on table, data of one point: x is off by"),
    Mistake(OneLevelShort, "test_on_step_is_called_after_each_step", "indices [0, 1, 2, 3] for 5 steps"),
    Mistake(ToData, "test_ends_at_the_last_time", "times ending at 0.4 t_max"),
    Mistake(GlobalAncestral, "test_leaves_the_global_generators_alone", "the global generator of torch"),
    Mistake(GlobalAncestral, "test_noise_comes_from_the_streams", "equal streams gave other samples"),
    Mistake(OwnGenerator, "test_noise_comes_from_the_streams", "other streams gave the same samples"),
    Mistake(OneStream, "test_an_example_does_not_depend_on_its_batch", "x: example 1 alone"),
    Mistake(NoiseWithoutAsking, "test_noise_comes_from_the_streams", ("without streams", "where streams is None")),
    Mistake(CountsFromOne, "test_on_step_is_called_after_each_step", "indices [1, 2, 3, 4, 5] for 5 steps"),
    Mistake(Mute, "test_on_step_is_called_after_each_step", "indices [] for 5 steps"),
    Mistake(Mute, "test_on_step_can_cancel", "an on_step that raises to cancel the run raises nothing"),
    Mistake(Deaf, "test_on_step_replaces_x", "a tensor returned after the last step is not the result"),
    Mistake(Swallows, "test_on_step_can_cancel", ("raises nothing", "catch nothing")),
    Mistake(Remembers, "test_keeps_no_history", "a run depends on the run before it"),
    Mistake(DividesByAlpha, "test_is_finite_everywhere", ("steps on flow are not finite", "divides_by_alpha = True")),
    Mistake(DividesByNumbers, "test_is_finite_everywhere", "1 steps on flow: the sampler divides by zero"),
    Mistake(DividesByNumbers, CONVERGES, ("divides by zero", "never by alpha")),
    Mistake(Doubles, "test_is_finite_everywhere", "x torch.float32 (2, 3, 4, 4) became torch.float64"),
    Mistake(StepsInPlace, "test_inputs_stay_unchanged", "changed its inputs in place"),
    Mistake(LooksAhead, "test_evaluates_within_the_times", "asked between"),
    Mistake(MeanOfTheBatch, "test_an_example_does_not_depend_on_its_batch", "x: example 0 alone"),
    Mistake(NoGradient, "test_gradients_pass", "the result has no gradient with respect to x"),
    Mistake(ScalarTime, "test_outputs_are_finite", "denoise is called with t of shape (), not (B,)"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(SamplerSuite, mistake)


class Heun(Euler):
    """The trapezoid rule of x0, in units of sigma / alpha: second order; the last step, to sigma 0, is Euler's."""

    weights = (0.5, 0.5)

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
        return b * x / a + (u - b * s / a) * (self.weights[0] * slope_now + self.weights[1] * slope_after)


def test_a_second_order_sampler_reaches_order_2() -> None:
    found = faults_of(Heun, order=2.0)
    assert not found, found


def test_the_order_can_be_measured_where_lambda_is_even() -> None:
    found = faults_of(Heun, order=2.0, spacing="log_snr", only=CONVERGES)
    assert not found, found
    assert_told(faults_of(Euler, order=2.0, spacing="log_snr", only=CONVERGES)[CONVERGES], "order of convergence")


def test_noise_beyond_the_level_can_be_said_openly() -> None:
    assert not faults_of(TooNoisy, exact_noise=False)


def test_dividing_by_alpha_can_be_said_openly() -> None:
    assert not faults_of(DividesByAlpha, divides_by_alpha=True)


def test_a_claimed_order_is_measured() -> None:
    assert_told(faults_of(Euler, order=2.0, only=CONVERGES)[CONVERGES], "is 0.9", ", not 2")


class WrongWeights(Heun):
    """A corrector that weighs the two slopes as 0.6 and 0.4: of first order, where its paper says second."""

    weights = (0.6, 0.4)


def test_a_wrong_coefficient_shows_in_the_order() -> None:
    found = faults_of(WrongWeights, order=2.0, only=CONVERGES)
    assert_told(found[CONVERGES], "order of convergence on", "not 2", "with its source")
