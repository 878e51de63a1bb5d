"""The suites of schedules, parameterizations and time grids: right ones pass, and each mistake fails its test."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import pytest
import torch
from planted import Empty, Mistake, assert_found, assert_told, faults_of, mistakes
from torch import Tensor

from ldm_core.contracts import NoiseSchedule, TimeGrid
from ldm_core.testing import ParameterizationSuite, ScheduleSuite, TimeGridSuite
from ldm_core.testing.gaussian import FlowSchedule
from ldm_core.testing.toys import CosineSchedule, FlowParameterization, even_times

# -------------------------------------------------------------------------------------------------- schedules


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


class Table(NoiseSchedule):
    """A table of 50."""

    t_max = 50.0
    table_steps: int | None = 50

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t.double() / 50 * 1.5)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t.double() / 50 * 1.5)

    def noise_level(self, t: Tensor) -> Tensor:
        return t.float() - 1

    def draw(self, u: Tensor) -> Tensor:
        return (u.double() * 50).floor() + 1


class HalfIndex(Table):
    def noise_level(self, t: Tensor) -> Tensor:
        return t.float() - 0.5


class Skips(Table):
    def draw(self, u: Tensor) -> Tensor:
        return (u.double() * 25).floor() * 2 + 1


class AnotherLength(Table):
    """Counts from 0: the last index, and not the length."""

    table_steps = 49


class SaysNoLength(Table):
    table_steps = None


class SaysOneOfNothing(CosineSchedule):
    table_steps = 1000


class WrongCosine(CosineSchedule):
    """alpha once too often: alpha² + sigma² is not 1."""

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t) * super().alpha(t)


class Stairs(Table):
    """A table that is looked up at the nearest index: flat between whole times."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t.round())

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t.round())


class OneLevelForAll(CosineSchedule):
    def noise_level(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 999.0)


@attrs.frozen(kw_only=True)
class DrawsBySize:
    by_size: ClassVar[bool] = True


class SizedFlow(FlowSchedule):
    """Times of larger latents are noisier."""

    def __init__(self) -> None:
        self.config = DrawsBySize()

    def draw(self, u: Tensor, *, shape: Any = None) -> Tensor:
        return super().draw(u) if shape is None else super().draw(u) ** (8 / shape[1])


class ForgetsItsConfig(SizedFlow):
    def __init__(self) -> None:
        pass


class BeyondTheEnd(SizedFlow):
    def draw(self, u: Tensor, *, shape: Any = None) -> Tensor:
        return super().draw(u) * (1.0 if shape is None or shape[1] < 100 else 1.5)


class FoldsWhenLarge(SizedFlow):
    def draw(self, u: Tensor, *, shape: Any = None) -> Tensor:
        t = super().draw(u)
        return t if shape is None or shape[1] < 100 else 1e-3 + (t - 0.5).abs()


class Tabled(Empty):
    table_steps: ClassVar[int | None] = 50


@pytest.mark.parametrize(
    ("schedule", "config"), [(CosineSchedule, Empty), (FlowSchedule, Empty), (Table, Tabled), (SizedFlow, DrawsBySize)]
)
def test_a_right_schedule_passes(schedule: type, config: type) -> None:
    assert not faults_of(ScheduleSuite, lambda config, site: schedule(), config)


def made(cls: type) -> Any:
    """A factory of parts that take no config."""

    def make(config: Any, site: Any) -> Any:
        return cls()

    make.__name__ = cls.__name__
    return make


@mistakes(
    Mistake(made(SinglePrecision), "test_coefficients_are_float64_in_the_shape_of_t", "alpha is torch.float32"),
    Mistake(made(NoisyData), "test_boundary_values", "sigma(0) is 0.001, not 0"),
    Mistake(made(NotMonotone), "test_noise_increases", "sigma / alpha does not increase at t ="),
    Mistake(made(Stairs), "test_between_whole_times_noise_increases_too", "sigma / alpha does not increase", Tabled),
    Mistake(made(DrawsData), "test_drawn_times", "times between 0.0 and"),
    Mistake(made(HalfIndex), "test_noise_level", "is not a whole number at whole t", Tabled),
    Mistake(made(OneLevelForAll), "test_noise_level", "not strictly monotone"),
    Mistake(made(Skips), "test_drawn_times", "draw does not give each of 1..50", Tabled),
    Mistake(made(AnotherLength), "test_a_table_says_its_length", "AnotherLength is 49, not 50", Tabled),
    Mistake(made(SaysNoLength), "test_a_table_says_its_length", "SaysNoLength is None, not 50", Tabled),
    Mistake(made(SaysOneOfNothing), "test_a_table_says_its_length", "is 1000, not None"),
    Mistake(made(Table), "test_a_table_says_its_length", "table_steps of Empty is None, not 50"),
    Mistake(made(ForgetsItsConfig), "test_drawn_times_of_every_size", "does not keep its config", DrawsBySize),
    Mistake(made(BeyondTheEnd), "test_drawn_times_of_every_size", "latents (128, 128): times between", DrawsBySize),
    Mistake(made(FoldsWhenLarge), "test_drawn_times_of_every_size", "not monotone in u for latents", DrawsBySize),
)
def test_a_mistake_in_a_schedule_is_found(mistake: Mistake) -> None:
    assert_found(ScheduleSuite, mistake)


def test_a_claim_to_preserve_variance_is_tested() -> None:
    assert not faults_of(ScheduleSuite, made(CosineSchedule), preserves_variance=True)
    test = "test_variance_is_preserved_where_that_is_claimed"
    assert_found(ScheduleSuite, Mistake(made(WrongCosine), test, "is off 1 by"), preserves_variance=True)


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


class Swapped(PublishedV):
    """c_skip and c_out in the other order."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        skip, out, scale = super().coefficients(alpha, sigma)
        return out, skip, scale


@pytest.mark.parametrize(("name", "toy"), [("flow", FlowParameterization), ("v", PublishedV)])
def test_a_right_parameterization_passes(name: str, toy: type) -> None:
    assert not faults_of(ParameterizationSuite, made(toy), component=name)


@mistakes(
    Mistake(made(VOfVPOnly), "test_exact_output_gives_x0_back", "x0 is off by"),
    Mistake(made(Swapped), "test_exact_output_gives_x0_back", "x0 is off by"),
    Mistake(made(SingleV), "test_coefficients_keep_shape_and_precision", "c_skip is torch.float32, not float64"),
    Mistake(made(UnscaledV), "test_input_has_a_bounded_scale", "the input's variance reaches"),
)
def test_a_mistake_in_a_parameterization_is_found(mistake: Mistake) -> None:
    assert_found(ParameterizationSuite, mistake, component="v")


def test_alpha_0_is_borne_or_ruled_out() -> None:
    class Eps:
        def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return 1 / alpha, -sigma / alpha, torch.rsqrt(alpha**2 + sigma**2)

    @attrs.frozen(kw_only=True)
    class Open:
        needs_terminal_alpha: bool = True

    test = "test_bears_alpha_0_as_its_config_says"
    found = faults_of(ParameterizationSuite, lambda c, s: Eps(), component="eps")
    assert set(found) == {test}
    assert_told(found[test], "needs_terminal_alpha = True")
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


class OneLevelShort(Even):
    """Levels where intervals are asked for."""

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return torch.linspace(schedule.t_max, 0, max(steps, 1), dtype=torch.float64)


class Rises(Even):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return super().times(schedule, steps).flip(0)


class StopsBeforeData(Even):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return even_times(schedule, max(steps, 1), end=0.1 * schedule.t_max)


class OneLeap(Even):
    """Half of the way in one step, however many there are."""

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        times = super().times(schedule, steps)
        return times if steps == 1 else torch.cat([times[:1], 0.5 * times[1:] * times[0] / times[1]])


@attrs.frozen(kw_only=True)
class BySize:
    by_size: ClassVar[bool] = True


class Sized(Even):
    """Even times to a power that grows with the latents: 1 for small ones."""

    def __init__(self) -> None:
        self.config = BySize()

    def times(self, schedule: NoiseSchedule, steps: int, *, shape: Any = None) -> Tensor:
        power = 1.0 if shape is None else 1 + shape[1] / 128
        return schedule.t_max * (super().times(schedule, steps) / schedule.t_max) ** power


class Forgetful(Sized):
    def __init__(self) -> None:
        pass


class CrampedWhenLarge(Sized):
    def times(self, schedule: NoiseSchedule, steps: int, *, shape: Any = None) -> Tensor:
        power = 1.0 if shape is None else shape[1]
        return schedule.t_max * (super().times(schedule, steps) / schedule.t_max) ** power


class RefusesLarge(Sized):
    def times(self, schedule: NoiseSchedule, steps: int, *, shape: Any = None) -> Tensor:
        if shape is not None and shape[1] > 100:
            raise ValueError("too large")
        return super().times(schedule, steps, shape=shape)


@attrs.frozen(kw_only=True)
class CarelessBySize(BySize):
    def problem(self, table_steps: int | None, steps: int) -> str | None:
        return "no steps" if steps < 1 else None


def test_a_right_grid_passes() -> None:
    assert not faults_of(TimeGridSuite, made(Even))
    assert not faults_of(TimeGridSuite, made(Sized), BySize)


@mistakes(
    Mistake(made(OneLevelTwice), "test_levels_are_apart", "are one level"),
    Mistake(made(Repeats), "test_times", "do not strictly decrease"),
    Mistake(made(Rises), "test_times", "do not strictly decrease"),
    Mistake(made(OneTooMany), "test_times", "1 steps have (3,) times, not 2"),
    Mistake(made(OneLevelShort), "test_times", ("1 steps have (1,) times, not 2", "`steps` counts intervals")),
    Mistake(made(StopsBeforeData), "test_times", "times end at"),
    Mistake(made(SingleTimes), "test_times", "times are torch.float32, not float64"),
    Mistake(made(SharedTimes), "test_repeats_itself", "gives other times"),
    Mistake(made(TakesNothing), "test_no_steps_are_refused", "a grid of 0 steps raises nothing"),
    Mistake(made(OneLeap), "test_more_steps_are_finer", "the longest intervals of 10, 50, 200 steps"),
    Mistake(made(Even), "test_config_answers_as_the_grid_does", "0 steps on", Careless),
    Mistake(made(Forgetful), "test_keeps_the_config_that_asks_for_the_size", "does not keep its config", BySize),
    Mistake(made(CrampedWhenLarge), "test_levels_are_apart", "are one level", BySize),
    Mistake(made(RefusesLarge), "test_config_answers_as_the_grid_does", "(128, 128): the config says", CarelessBySize),
)
def test_a_mistake_in_a_grid_is_found(mistake: Mistake) -> None:
    assert_found(TimeGridSuite, mistake)
