"""The ancestral sampler: exact moments on Gaussians, agreement with diffusers, its streams and callbacks."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from ldm_core.builtin.diffusion.config import DDPMConfig, LeadingConfig, LinspaceConfig, TrailingConfig, VPConfig
from ldm_core.builtin.diffusion.ddpm import DDPMSampler
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.builtin.diffusion.time_grids import EvenGrid
from ldm_core.contracts import Estimate, NoiseSchedule
from ldm_core.contracts.streams import Streams
from ldm_core.testing.gaussian import FlowSchedule, Gaussian, VESchedule, graded_times, moments

VP = VPSchedule(VPConfig(beta_start=0.00085, beta_end=0.012))
SCHEDULES = {"vp": VP, "ve": VESchedule(), "flow": FlowSchedule()}


def sampler(variance: Literal["small", "large"] = "small") -> DDPMSampler:
    return DDPMSampler(DDPMConfig(variance=variance))


def even(schedule: NoiseSchedule, steps: int, end: float) -> Tensor:
    return torch.linspace(schedule.t_max, end * schedule.t_max, steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_small_variance_is_exact_for_one_point_data(name: str, steps: int) -> None:
    schedule, problem = SCHEDULES[name], Gaussian(0.7, 0.0)
    times = even(schedule, steps, 0.1)
    mean, std = problem.marginal(schedule, times[-1])
    assert moments(sampler("small"), schedule, times, problem) == pytest.approx((float(mean), float(std)), rel=1e-9)


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_large_variance_is_exact_for_unit_normal_data(steps: int) -> None:
    # The true posterior variance of data N(m, 1) is that of one forward step (Ho et al. 2020, section 3.2).
    problem, times = Gaussian(-0.3, 1.0), even(VP, steps, 0.1)
    mean, std = problem.marginal(VP, times[-1])
    assert moments(sampler("large"), VP, times, problem) == pytest.approx((float(mean), float(std)), rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("variance", ["small", "large"])
def test_moments_converge_at_first_order(name: str, variance: Literal["small", "large"]) -> None:
    schedule, problem = SCHEDULES[name], Gaussian(0.4, 0.5)
    errors = []
    for steps in (100, 200):
        mean, std = moments(sampler(variance), schedule, graded_times(schedule.t_max, 0.0, steps), problem)
        assert mean == pytest.approx(problem.mean, abs=0.01)
        errors.append(abs(std - problem.std))
    assert errors[1] < 0.02
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


def noise_network(x: Tensor, index: float) -> Tensor:
    """Some function of x and t to play the predicted noise; the x0 that it implies is bounded."""
    t = torch.tensor([index + 1.0])
    x0 = torch.tanh(1.3 * x + 0.4 * math.sin(index)) - 0.2 * torch.sin(x.roll(1, -1))
    return (x - float(VP.alpha(t)) * x0) / float(VP.sigma(t))


def denoise(x: Tensor, t: Tensor) -> Estimate:
    assert t.shape == (x.shape[0],)
    alpha, sigma = float(VP.alpha(t)[0]), float(VP.sigma(t)[0])
    return Estimate((x - sigma * noise_network(x, float(t[0]) - 1)) / alpha)


@pytest.mark.parametrize(
    ("grid", "variance"),
    [
        (LeadingConfig(offset=1), "small"),
        (LeadingConfig(offset=0), "small"),
        (LeadingConfig(offset=0), "large"),
        (TrailingConfig(), "small"),
        (LinspaceConfig(), "large"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_whole_runs_equal_diffusers(
    grid: Any, variance: Literal["small", "large"], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_ddpm

    scheduler = scheduling_ddpm.DDPMScheduler(
        variance_type=f"fixed_{variance}",
        clip_sample=False,
        timestep_spacing=type(grid).__name__.removesuffix("Config").lower(),
        steps_offset=getattr(grid, "offset", 0),
    )
    scheduler.alphas_cumprod = VP.alphas_cumprod
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(40)
    start = Streams([5, 6]).normal((2, 3, 4, 4)).to(dtype)
    theirs, noise = start, Streams([1, 2])
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda shape, **_: noise.normal(shape).to(dtype))
    for t in scheduler.timesteps:
        theirs = scheduler.step(noise_network(theirs, float(t)), int(t), theirs).prev_sample
    times = EvenGrid(grid).times(VP, 40)
    ours = sampler(variance).sample(denoise, start, times, VP, streams=Streams([1, 2]))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs.to(dtype), rtol=0, atol=1e-9 if dtype == torch.float64 else 2e-5)


def test_an_example_does_not_depend_on_its_batch_mates() -> None:
    start, times = Streams([5, 6, 7]).normal((3, 2, 4)), EvenGrid(TrailingConfig()).times(VP, 6)
    together = sampler().sample(denoise, start, times, VP, streams=Streams([1, 2, 3]))
    alone = sampler().sample(denoise, start[1:2], times, VP, streams=Streams([2]))
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-6)


def test_without_streams_only_a_step_to_data_is_possible() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match="streams"):
        sampler().sample(denoise, x, EvenGrid(TrailingConfig()).times(VP, 4), VP)
    one = EvenGrid(TrailingConfig()).times(VP, 1)
    torch.testing.assert_close(sampler().sample(denoise, x, one, VP), denoise(x, one[:1]).x0, rtol=1e-6, atol=1e-6)


def test_callbacks_see_every_step_and_may_replace_x() -> None:
    times, seen = EvenGrid(TrailingConfig()).times(VP, 4), []

    def on_step(index: int, t: Tensor, x: Tensor, x0: Tensor) -> Tensor | None:
        seen.append((index, float(t), t.dim(), x.shape == x0.shape))
        return torch.full_like(x, 9.0) if index == 3 else None

    start = torch.ones(2, 3)
    out = sampler().sample(denoise, start, times, VP, streams=Streams([1, 2]), on_step=on_step)
    assert seen == [(0, 750.0, 0, True), (1, 500.0, 0, True), (2, 250.0, 0, True), (3, 0.0, 0, True)]
    assert torch.equal(out, torch.full((2, 3), 9.0))
    assert torch.equal(start, torch.ones(2, 3))


def test_finite_where_alpha_is_zero() -> None:
    flow, problem = FlowSchedule(), Gaussian()
    out = sampler().sample(
        problem.denoise(flow), Streams([1]).normal((1, 8)), even(flow, 10, 0.0), flow, streams=Streams([2])
    )
    assert bool(torch.isfinite(out).all())
