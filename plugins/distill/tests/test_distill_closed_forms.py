"""Against closed forms: Gaussian data, whose flow ends where one can say, and the published code's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ldm_plugin_distill.config import ConsistencyConfig, LCMConfig, LCMGridConfig, ProgressiveConfig
from ldm_plugin_distill.consistency import Consistency
from ldm_plugin_distill.levels import LCMGrid, boundary, time_of
from ldm_plugin_distill.progressive import Progressive
from ldm_plugin_distill.sampler import LCMSampler
from torch import Tensor, nn

from ldm_core import Denoiser
from ldm_core.builtin.diffusion.config import TrailingConfig, VPConfig
from ldm_core.builtin.diffusion.parameterizations import X0Parameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.builtin.diffusion.time_grids import EvenGrid
from ldm_core.config.structure import structure
from ldm_core.contracts import Cond, Conditions, Estimate, LossContext, NoiseSchedule, Site
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import Model
from ldm_core.testing.gaussian import FlowSchedule, Gaussian, VESchedule

SD = VPSchedule(VPConfig(beta_start=0.00085, beta_end=0.012))
SCHEDULES: dict[str, NoiseSchedule] = {"table": SD, "flow": FlowSchedule(), "ve": VESchedule()}
PROBLEM = Gaussian(0.4, 0.5)


class Known(Denoiser, nn.Module):
    """A network that knows its schedule: the mean of x0 of Gaussian data, or the end of its flow. It stands under the
    parameterization x0, whose c_in it takes back."""

    def __init__(self, schedule: NoiseSchedule, ends: dict[float, Any]) -> None:
        super().__init__()
        self.schedule, self.ends = schedule, ends
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, h, w) -> x0."""
        rows = []
        for row, level in zip(x, noise_level, strict=True):
            t = min(self.ends, key=lambda t: abs(float(self.schedule.noise_level(torch.tensor(t))) - float(level)))
            c_in = X0Parameterization().coefficients(*(f(torch.tensor([t])) for f in (_alpha(self), _sigma(self))))[2]
            rows.append(self.ends[t]((row / c_in.to(row)).double()))
        return torch.stack(rows).float() + self.shift


def _alpha(network: Known) -> Any:
    return network.schedule.alpha


def _sigma(network: Known) -> Any:
    return network.schedule.sigma


def ends_of(schedule: NoiseSchedule, levels: int, *, flow: Any = None) -> dict[float, Any]:
    """By time, the function x -> x0: the mean's, or that of `flow` (x, t) -> x0."""
    times = time_of(schedule, torch.arange(1, levels + 1), levels).tolist()
    mean = PROBLEM.denoise(schedule)

    def end(t: float) -> Any:
        if flow is not None:
            return lambda x: flow(x, t)
        return lambda x: mean(x[None], torch.tensor([t], dtype=torch.float64)).x0[0]

    return {t: end(t) for t in times}


def ddim(schedule: NoiseSchedule, times: list[float], x: Tensor) -> Tensor:
    """x at times[0] -> x at times[-1] by DDIM with the exact mean."""
    mean, at = PROBLEM.denoise(schedule), torch.tensor(times, dtype=torch.float64)
    alpha, sigma = schedule.alpha(at).tolist(), schedule.sigma(at).tolist()
    for i in range(len(times) - 1):
        x0 = mean(x[None], at[i : i + 1]).x0[0]
        x = alpha[i + 1] * x0 + sigma[i + 1] * (x - alpha[i] * x0) / sigma[i]
    return x


def context(step: int = 0, steps: int = 10) -> LossContext:
    return LossContext(Conditions({}, {}), {}, step, steps)


def loss(objective: Any, model: Model, teacher: Model, rows: int = 12, **where: Any) -> Tensor:
    """The loss under the analytic teacher, of data of the problem."""
    if objective.target is None and not objective._teacher:
        objective.prepare(teacher)
    x0 = PROBLEM.mean + PROBLEM.std * torch.randn(rows, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    value: Tensor = objective.loss(model, x0, Cond(), streams=Streams(range(rows)), context=context(**where)).value
    return value.detach()


def model_of(schedule: NoiseSchedule, ends: dict[float, Any]) -> Model:
    return Model(Known(schedule, ends), schedule, X0Parameterization()).eval()


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_end_of_the_teachers_own_steps_has_no_loss(name: str) -> None:
    """f(x, t_n) = DDIM of the teacher down the levels n, n - 1, ..., 0 solves what the objective asks for, exactly; the
    teacher itself does not."""
    schedule, levels = SCHEDULES[name], 5
    down = [*time_of(schedule, torch.arange(levels, -1, -1), levels).tolist()]
    end = lambda x, t: ddim(schedule, down[down.index(t) :], x)  # noqa: E731
    teacher = model_of(schedule, ends_of(schedule, levels))
    student = model_of(schedule, ends_of(schedule, levels, flow=end))
    plain: dict[str, Any] = {"levels": levels, "decay": 0.0, "loss": "l2", "boundary": 0.0}
    objective = Consistency(ConsistencyConfig(**plain), Site(size=(2, 2)))
    assert float(loss(objective, student, teacher).max()) < 1e-9
    first = loss(objective, teacher, teacher)
    assert float(first.max()) > 1e-4
    huber = Consistency(ConsistencyConfig(**{**plain, "loss": "huber", "huber": 100.0}), Site(size=(2, 2)))
    torch.testing.assert_close(loss(huber, teacher, teacher), first / 200, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_target_nears_the_known_consistency_function(name: str) -> None:
    """With more levels the solution nears the end of the probability flow, m + s (x - alpha m) / std(x_t)."""
    schedule, x = SCHEDULES[name], torch.tensor([[[1.3, -0.7]]], dtype=torch.float64)
    top, zero = (torch.tensor(float(t), dtype=torch.float64) for t in (schedule.t_max, 0.0))
    exact = PROBLEM.flow(schedule, x, top, zero)
    errors = [
        float((ddim(schedule, time_of(schedule, torch.arange(n, -1, -1), n).tolist(), x) - exact).abs().max())
        for n in (25, 50, 100)
    ]
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.1 * float((x - exact).abs().max())


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_halving_asks_for_two_steps_in_one(name: str) -> None:
    """A student whose one step of DDIM ends where the teacher's two end has no loss, in each halving."""
    schedule = SCHEDULES[name]
    teacher = model_of(schedule, ends_of(schedule, 8))
    objective = Progressive(ProgressiveConfig(begin=8, steps=2), Site(size=(2, 2)))

    def student(steps: int, before: Any) -> dict[float, Any]:
        times = time_of(schedule, torch.arange(2 * steps + 1), 2 * steps)

        def x0(x: Tensor, t: float) -> Tensor:
            i = times.tolist().index(t)
            a, s = (f(times[[i, i - 1, i - 2]]).tolist() for f in (schedule.alpha, schedule.sigma))
            half = x
            for j in range(2):
                half = s[j + 1] / s[j] * half + (a[j + 1] - s[j + 1] / s[j] * a[j]) * before[times[i - j].item()](half)
            keep = s[2] / s[0]
            return (half - keep * x) / (a[2] - keep * a[0])

        return ends_of(schedule, steps, flow=x0)

    halves = student(4, ends_of(schedule, 8))
    assert float(loss(objective, model_of(schedule, halves), teacher, step=0).max()) < 1e-7
    assert float(loss(objective, teacher, teacher, step=0).max()) > 1e-4
    with torch.no_grad():
        for step in range(5):
            objective.after_step(model_of(schedule, halves), step)
    assert int(objective.halved) == 1 and objective.former is not None
    objective.former = model_of(schedule, halves).denoiser.eval()  # type: ignore[assignment, attr-defined]
    assert float(loss(objective, model_of(schedule, student(2, halves)), teacher, step=5).max()) < 1e-7


def test_the_average_becomes_the_teacher_at_the_end_of_a_halving() -> None:
    teacher = model_of(SD, ends_of(SD, 16))
    student = model_of(SD, ends_of(SD, 16))
    objective = Progressive(ProgressiveConfig(begin=16, steps=2, decay=0.5), Site(size=(2, 2)))
    seen = []
    for step in range(9):
        out = loss(objective, student, teacher, 2, step=step, steps=9)
        assert bool(out.isfinite().all())
        with torch.no_grad():
            student.denoiser.shift += 1.0  # type: ignore[attr-defined]
            objective.after_step(student, step)
        seen.append((int(objective.halved), float(objective.former.shift)))  # type: ignore[union-attr, arg-type]
    averages = [0.0]
    for i in range(9):
        averages.append(averages[-1] / 2 + (i + 1) / 2)
    assert [h for h, _ in seen] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert [f for _, f in seen] == pytest.approx([0, 0, *[averages[3]] * 3, *[averages[6]] * 4])


# ------------------------------------------------------------------------------------------------ the published code


def test_the_levels_of_the_published_code() -> None:
    pytest.importorskip("diffusers")
    from diffusers import LCMScheduler

    theirs = LCMScheduler()
    for steps in range(1, 51):
        theirs.set_timesteps(steps)
        times = LCMGrid(LCMGridConfig()).times(SD, steps)
        assert (times[:-1] - 1).tolist() == theirs.timesteps.tolist() and float(times[-1]) == 0, steps
    assert LCMGridConfig().numbers(4) == [50, 38, 25, 13]
    assert LCMGrid(LCMGridConfig()).times(FlowSchedule(), 4).tolist() == [1.0, 0.76, 0.5, 0.26, 0.0]
    assert LCMGridConfig().problem(None, 51) == LCMGridConfig().problem(1000, 51) != LCMGridConfig().problem(1000, 50)
    assert "the most it can is 10" in str(LCMGridConfig().problem(10, 11))


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
def test_steps_as_the_published_code_takes_them(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of whole runs, with the same noise: coefficients, boundary, and none after the last."""
    pytest.importorskip("diffusers")
    from diffusers import LCMScheduler
    from diffusers.schedulers import scheduling_lcm

    theirs = LCMScheduler(beta_start=0.00085, beta_end=0.012, clip_sample=False)
    theirs.set_timesteps(steps)
    noises = Streams([5]).normal((1, 4, 3, 3)), Streams([9])
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda shape, **_: noises[1].normal(shape))
    network = lambda x: torch.tanh(0.7 * x + 0.1)  # noqa: E731  (an eps)
    x = noises[0]
    for t in theirs.timesteps:
        x = theirs.step(network(x), t, x).prev_sample

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        a, s = (f(t).to(x).view(-1, 1, 1, 1) for f in (SD.alpha, SD.sigma))
        return Estimate((x - s * network(x)) / a)

    times = LCMGrid(LCMGridConfig()).times(SD, steps)
    found = LCMSampler(LCMConfig()).sample(denoise, noises[0], times, SD, streams=Streams([9]))
    torch.testing.assert_close(found, x, rtol=2e-4, atol=2e-4)


def test_the_boundary() -> None:
    skip, out = boundary(SD, torch.tensor([0.0, 1.0, 260.0]), 10.0)
    assert skip.tolist() == pytest.approx([1, 1, 0.25 / (2590**2 + 0.25)]) and out[:2].tolist() == [0, 0]
    assert float(out[2]) == pytest.approx(1 - 2e-8, abs=1e-8)
    for schedule in SCHEDULES.values():
        skip, out = boundary(schedule, torch.tensor([0.0, float(schedule.t_max)]), 10.0)
        assert (float(skip[0]), float(out[0])) == (1.0, 0.0) and float(out[1]) == pytest.approx(1.0)
        assert [v.tolist() for v in boundary(schedule, torch.tensor([0.0]), 0.0)] == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (ConsistencyConfig, {"scale": [3.0, 2.0]}),
        (ConsistencyConfig, {"scale": -1.0}),
        (ConsistencyConfig, {"decay": 1.0}),
        (ConsistencyConfig, {"levels": 0}),
        (ConsistencyConfig, {"huber": 0.0}),
        (ProgressiveConfig, {"begin": 12, "steps": 4}),
        (ProgressiveConfig, {"begin": 4, "steps": 4}),
        (LCMGridConfig, {"levels": 0}),
    ],
)
def test_settings_out_of_range_are_refused(config: type, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        structure(wrong, config, "part")


def test_trailing_times_are_those_of_the_halvings() -> None:
    for steps in (1, 2, 3, 4, 8, 16):
        for schedule in (SD, FlowSchedule()):
            grid = EvenGrid(TrailingConfig()).times(schedule, steps)
            own = time_of(schedule, torch.arange(steps, -1, -1), steps)
            torch.testing.assert_close(grid, own, rtol=0, atol=1e-12)
