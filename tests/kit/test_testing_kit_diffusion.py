"""The kit's suites of schedules, parameterizations, grids, guidances and objectives, put to the test.

For each, a right toy passes everything, and a toy with one fault fails the test that is there to find it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from ldm_core.contracts import Estimate, Guidance, LossOutput, NoiseSchedule, Objective, TimeGrid
from ldm_core.contracts.conditioning import Conditions
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import per_example
from ldm_core.testing import (
    GuidanceSuite,
    ObjectiveSuite,
    ParameterizationSuite,
    ScheduleSuite,
    Suite,
    TimeGridSuite,
)
from ldm_core.testing.gaussian import FlowSchedule
from ldm_core.testing.running import catalog_of, failures
from ldm_core.testing.toys import CosineSchedule, FlowParameterization, even_times


@attrs.frozen(kw_only=True)
class Empty:
    pass


@attrs.frozen(kw_only=True)
class Scaled:
    scale: float = 3.0
    needs_null: bool = True


def faults_of(suite: type[Suite], make: Callable[..., Any], config: type = Empty, **attributes: Any) -> dict[str, str]:
    name = attributes.pop("component", "toy")
    catalog = catalog_of(suite.kind, name, config, make)
    return failures(type("Mine", (suite,), {"component": name, "catalog": catalog, **attributes}))


# ------------------------------------------------------------------------------------------------- schedules


class SinglePrecision(CosineSchedule):
    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t).float()


class NoisyData(CosineSchedule):
    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t) + 1e-3


class NotMonotone(CosineSchedule):
    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t) * (1 + 0.5 * torch.sin(20 * t.double()))


class DrawsData(CosineSchedule):
    def draw(self, u: Tensor) -> Tensor:
        return self.t_max * u.double()


class HalfIndex(NoiseSchedule):
    t_max = 50.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t.double() / 50 * 1.5)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t.double() / 50 * 1.5)

    def noise_level(self, t: Tensor) -> Tensor:
        return t.float() - 0.5

    def draw(self, u: Tensor) -> Tensor:
        return (u.double() * 50).floor() + 1


class Skips(HalfIndex):
    def noise_level(self, t: Tensor) -> Tensor:
        return t.float() - 1

    def draw(self, u: Tensor) -> Tensor:
        return (u.double() * 25).floor() * 2 + 1


@pytest.mark.parametrize(
    ("schedule", "test"),
    [
        (CosineSchedule, None),
        (FlowSchedule, None),
        (SinglePrecision, "test_coefficients_are_float64_in_the_shape_of_t"),
        (NoisyData, "test_boundary_values"),
        (NotMonotone, "test_noise_increases"),
        (DrawsData, "test_drawn_times"),
        (HalfIndex, "test_noise_level"),
        (Skips, "test_drawn_times"),
    ],
)
def test_schedules(schedule: type, test: str | None) -> None:
    found = faults_of(ScheduleSuite, lambda config, site: schedule())
    assert test in found if test else not found, found


# ------------------------------------------------------------------------------------------ parameterizations


class PublishedV:
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = torch.rsqrt(alpha**2 + sigma**2)
        return alpha * n**2, -sigma * n, n


class VOfVPOnly(PublishedV):
    """-sigma n² is right where n is 1, and nowhere else."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = torch.rsqrt(alpha**2 + sigma**2)
        return alpha * n**2, -sigma * n**2, n


class SingleV(PublishedV):
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Any:
        return tuple(v.float() for v in super().coefficients(alpha, sigma))


class UnscaledV(PublishedV):
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        skip, out, scale = super().coefficients(alpha, sigma)
        return skip, out, torch.ones_like(scale)


@pytest.mark.parametrize(
    ("name", "toy", "test"),
    [
        ("flow", FlowParameterization, None),
        ("v", PublishedV, None),
        ("v", VOfVPOnly, "test_exact_output_gives_x0_back"),
        ("v", SingleV, "test_coefficients_keep_shape_and_precision"),
        ("v", UnscaledV, "test_input_has_a_bounded_scale"),
        ("eps", PublishedV, "test_exact_output_gives_x0_back"),
    ],
)
def test_parameterizations(name: str, toy: type, test: str | None) -> None:
    found = faults_of(ParameterizationSuite, lambda config, site: toy(), component=name)
    assert test in found if test else not found, found


def test_alpha_0_is_borne_or_ruled_out() -> None:
    class Eps:
        def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return 1 / alpha, -sigma / alpha, torch.rsqrt(alpha**2 + sigma**2)

    @attrs.frozen(kw_only=True)
    class Open:
        needs_terminal_alpha: bool = True

    test = "test_bears_alpha_0_as_its_config_says"
    assert set(faults_of(ParameterizationSuite, lambda c, s: Eps(), component="eps")) == {test}
    assert not faults_of(ParameterizationSuite, lambda c, s: Eps(), Open, component="eps")


# -------------------------------------------------------------------------------------------------- time grids


class Even(TimeGrid):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        if steps < 1:
            raise ValueError("0 steps: at least 1 is needed")
        return even_times(schedule, steps)


class Repeats(Even):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return (super().times(schedule, steps) / schedule.t_max * 64).round() / 64 * schedule.t_max


class OneTooMany(Even):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return torch.cat([super().times(schedule, steps), torch.full((1,), -1.0, dtype=torch.float64)])


class SingleTimes(Even):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return super().times(schedule, steps).float()


class SharedTimes(Even):
    def __init__(self) -> None:
        self.kept: dict[Any, Tensor] = {}

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        key = (schedule.t_max, steps)
        if key not in self.kept:
            self.kept[key] = super().times(schedule, steps)
        return self.kept[key]


class TakesNothing(Even):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return even_times(schedule, max(1, steps))


class OneLevelTwice(Even):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        times = super().times(schedule, steps)
        times[-1:] = times[-1:].clamp(max=0)
        return times if steps < 2 else torch.cat([times[:-2], 1e-10 * schedule.t_max * times[-2:-1].sign(), times[-1:]])


@attrs.frozen(kw_only=True)
class Careless:
    def problem(self, table_steps: int | None, steps: int) -> str | None:
        return None


def test_a_grid_whose_config_says_another_thing() -> None:
    found = faults_of(TimeGridSuite, lambda config, site: Even(), Careless)
    assert list(found) == ["test_config_answers_as_the_grid_does"], found
    assert "0 steps on" in found["test_config_answers_as_the_grid_does"]


@pytest.mark.parametrize(
    ("grid", "test"),
    [
        (Even, None),
        (OneLevelTwice, "test_levels_are_apart"),
        (Repeats, "test_times"),
        (OneTooMany, "test_times"),
        (SingleTimes, "test_times"),
        (SharedTimes, "test_repeats_itself"),
        (TakesNothing, "test_no_steps_are_refused"),
    ],
)
def test_time_grids(grid: type, test: str | None) -> None:
    found = faults_of(TimeGridSuite, lambda config, site: grid())
    assert test in found if test else not found, found


# ---------------------------------------------------------------------------------------------------- guidance


class Right(Guidance):
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule) -> Estimate:
        null, cond = predict(x, t, [conditions.null, conditions.cond])
        return Estimate(self.mix(null.x0, cond.x0))

    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        return null + self.scale * (cond - null)


class OffByOne(Right):
    """The other convention, in which scale 0 is conditional."""

    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        return cond + self.scale * (cond - null)


class Detached(Right):
    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        return super().mix(null, cond).detach()


class BatchStatistics(Right):
    """Rescales by the standard deviation of the whole batch instead of each example's."""

    def mix(self, null: Tensor, cond: Tensor) -> Tensor:
        mixed = super().mix(null, cond)
        return mixed * cond.std() / mixed.std()


@attrs.frozen(kw_only=True)
class SaysItNeedsNone(Scaled):
    needs_null: bool = False


@pytest.mark.parametrize(
    ("guidance", "config", "test"),
    [
        (Right, Scaled, None),
        (OffByOne, Scaled, "test_scale_0_is_the_unconditional_estimate"),
        (OffByOne, Scaled, "test_scale_1_is_the_conditional_estimate"),
        (Detached, Scaled, "test_gradients_pass"),
        (BatchStatistics, Scaled, "test_an_example_does_not_depend_on_its_batch"),
        (Right, SaysItNeedsNone, "test_needs_null_is_true"),
    ],
)
def test_guidances(guidance: type, config: type, test: str | None) -> None:
    found = faults_of(GuidanceSuite, lambda c, site: guidance(c.scale), config)
    assert test in found if test else not found, found


# --------------------------------------------------------------------------------------------------- objective


class EpsLoss(Objective):
    def loss(self, model: Any, x0: Tensor, cond: Any, *, streams: Streams) -> LossOutput:
        t = model.schedule.draw(self.uniform(streams, x0.shape[0]).double()).clamp(max=0.97 * model.schedule.t_max)
        eps = self.noise(streams, x0)
        x = per_example(model.schedule.alpha(t), x0) * x0 + per_example(model.schedule.sigma(t), x0) * eps
        value = self.reduce((model(x, t, cond).x0 - x0).square())
        return LossOutput(value, {"x0": self.log(value)})

    def uniform(self, streams: Streams, count: int) -> Tensor:
        return streams.uniform((count,))

    def noise(self, streams: Streams, x0: Tensor) -> Tensor:
        return streams.normal(x0.shape)

    def reduce(self, error: Tensor) -> Tensor:
        return error.flatten(1).mean(1)

    def log(self, value: Tensor) -> Tensor:
        return value.detach()


class GlobalNoise(EpsLoss):
    def noise(self, streams: Streams, x0: Tensor) -> Tensor:
        return torch.randn_like(x0)


class OneTime(EpsLoss):
    def uniform(self, streams: Streams, count: int) -> Tensor:
        return streams.uniform((count,))[:1].expand(count)


class OneValue(EpsLoss):
    def reduce(self, error: Tensor) -> Tensor:
        return error.mean()


class GraphInLogs(EpsLoss):
    def log(self, value: Tensor) -> Tensor:
        return value


@pytest.mark.parametrize(
    ("objective", "test"),
    [
        (EpsLoss, None),
        (GlobalNoise, "test_leaves_the_global_generators_alone"),
        (GlobalNoise, "test_draws_from_the_streams"),
        (OneTime, "test_an_example_does_not_depend_on_its_batch"),
        (OneValue, "test_a_loss_for_each_example"),
        (GraphInLogs, "test_logs_are_detached"),
    ],
)
def test_objectives(objective: type, test: str | None) -> None:
    found = faults_of(ObjectiveSuite, lambda config, site: objective())
    assert test in found if test else not found, found
