"""DDIM: golden numbers, agreement with diffusers, order of convergence, exact moments, streams and callbacks."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from ldm_plugin_ddim.config import DDIMConfig
from ldm_plugin_ddim.sampler import DDIMSampler
from torch import Tensor

from ldm_core.builtin.diffusion.config import DDPMConfig, LeadingConfig, LegacyConfig, TrailingConfig, VPConfig
from ldm_core.builtin.diffusion.ddpm import DDPMSampler
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.builtin.diffusion.time_grids import EvenGrid, LegacyGrid
from ldm_core.config.structure import structure
from ldm_core.contracts import Denoise, Estimate, NoiseSchedule
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.testing.gaussian import FlowSchedule, Gaussian, VESchedule, graded_times, moments, order_of_convergence

SD = VPSchedule(VPConfig(beta_start=0.00085, beta_end=0.012))
LDM = VPSchedule(VPConfig(beta_start=0.0015, beta_end=0.0195))
SCHEDULES = {"vp": SD, "ve": VESchedule(), "flow": FlowSchedule()}


def sampler(eta: float = 0.0, temperature: float = 1.0) -> DDIMSampler:
    return DDIMSampler(DDIMConfig(eta=eta, temperature=temperature))


class Ones:
    """Streams whose every draw is 1."""

    def normal(self, shape: Any) -> Tensor:
        return torch.ones(tuple(shape))


def noise_network(schedule: NoiseSchedule, x: Tensor, index: float) -> Tensor:
    """Some function of x and t to play the predicted noise; the x0 that it implies is bounded."""
    t = torch.tensor([index + 1.0])
    x0 = torch.tanh(1.3 * x + 0.4 * math.sin(index)) - 0.2 * torch.sin(x.roll(1, -1))
    return (x - float(schedule.alpha(t)) * x0) / float(schedule.sigma(t))


def denoiser(schedule: NoiseSchedule) -> Denoise:
    def denoise(x: Tensor, t: Tensor) -> Estimate:
        assert t.shape == (x.shape[0],)
        alpha, sigma = float(schedule.alpha(t)[0]), float(schedule.sigma(t)[0])
        return Estimate((x - sigma * noise_network(schedule, x, float(t[0]) - 1)) / alpha)

    return denoise


@pytest.mark.parametrize(
    ("schedule", "first", "last", "lowest", "highest"),
    [(SD, 0.0206484, 0.4544633, 0.998296, 0.0057755), (LDM, 0.0274320, 0.5611383, None, 2.01956e-4)],
)
def test_golden_fresh_noise(
    schedule: VPSchedule, first: float, last: float, lowest: float | None, highest: float
) -> None:
    """With eta 1 and 50 legacy steps: the published samplers' sigma and alpha² of the first and last step."""
    times = LegacyGrid(LegacyConfig()).times(schedule, 50)
    fresh = []

    def on_step(index: int, t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        fresh.append(float(x[0, 0]))
        return torch.zeros_like(x)

    nothing: Denoise = lambda x, t: Estimate(torch.zeros_like(x))  # noqa: E731
    start = torch.zeros(1, 1, dtype=torch.float64)
    sampler(1.0).sample(nothing, start, times, schedule, streams=cast(Streams, Ones()), on_step=on_step)
    assert fresh[0] == pytest.approx(last, abs=1e-7)
    assert fresh[-1] == pytest.approx(first, abs=1e-7)
    squares = schedule.alpha(times) ** 2
    assert float(squares[0]) == pytest.approx(highest, rel=1e-5)
    if lowest is not None:
        assert float(squares[-2]) == pytest.approx(lowest, abs=1e-6)


def their_scheduler(schedule: VPSchedule, grid: Any, steps: int, **settings: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        timestep_spacing=type(grid).__name__.removesuffix("Config").lower(),
        steps_offset=getattr(grid, "offset", 0),
        set_alpha_to_one=getattr(grid, "final", "data") == "data",
        clip_sample=False,
        **settings,
    )
    scheduler.set_timesteps(steps)
    return scheduler


GRIDS = [LeadingConfig(), LeadingConfig(offset=0), LeadingConfig(final="first"), TrailingConfig()]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_step_by_step_from_a_shared_x(grid: Any, eta: float) -> None:
    scheduler = their_scheduler(SD, grid, 50, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    times, shared, noise = EvenGrid(grid).times(SD, 50), [], Streams([3, 4])
    start = Streams([5, 6]).normal((2, 3, 4, 4))

    def on_step(index: int, t: Tensor, x: Tensor, x0: Tensor) -> None:
        shared.append((x, x0))

    sampler(eta).sample(denoiser(SD), start, times, SD, streams=Streams([3, 4]), on_step=on_step)
    x = start
    for t, (after, x0) in zip(scheduler.timesteps, shared, strict=True):
        drawn = noise.normal(x.shape)
        theirs = scheduler.step(noise_network(SD, x, float(t)), int(t), x, eta=eta, variance_noise=drawn)
        torch.testing.assert_close(after, theirs.prev_sample, rtol=0, atol=1e-5)
        torch.testing.assert_close(x0, theirs.pred_original_sample, rtol=1e-5, atol=1e-5)
        x = after


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 50, 200])
def test_whole_runs_in_double_precision(grid: Any, eta: float, steps: int) -> None:
    scheduler = their_scheduler(LDM, grid, steps)
    scheduler.alphas_cumprod = LDM.alphas_cumprod
    last = LDM.alphas_cumprod[0] if getattr(grid, "final", "data") == "first" else torch.tensor(1.0)
    scheduler.final_alpha_cumprod = last.double()
    start = Streams([5, 6]).normal((2, 3, 4, 4)).double()
    theirs, noise = start, Streams([1, 2])
    for t in scheduler.timesteps:
        drawn = noise.normal(start.shape).double()
        theirs = scheduler.step(
            noise_network(LDM, theirs, float(t)), int(t), theirs, eta=eta, variance_noise=drawn
        ).prev_sample
    times = EvenGrid(grid).times(LDM, steps)
    ours = sampler(eta).sample(denoiser(LDM), start, times, LDM, streams=Streams([1, 2]))
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_converges_at_first_order(name: str, end: float) -> None:
    schedule = SCHEDULES[name]
    order = order_of_convergence(sampler(), schedule, Gaussian(), steps=128, end=end * schedule.t_max)
    assert order == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_moments_of_one_point_data_are_exact(name: str, eta: float) -> None:
    schedule, problem = SCHEDULES[name], Gaussian(0.7, 0.0)
    times = torch.linspace(schedule.t_max, 0.1 * schedule.t_max, 8, dtype=torch.float64)
    mean, std = problem.marginal(schedule, times[-1])
    found = moments(sampler(eta), schedule, times, problem)
    assert found == pytest.approx((float(mean), float(std)), rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_moments_converge_with_fresh_noise(name: str) -> None:
    schedule, problem = SCHEDULES[name], Gaussian(0.4, 0.5)
    times = graded_times(schedule.t_max, 0.0, 400)
    assert moments(sampler(0.7), schedule, times, problem) == pytest.approx((0.4, 0.5), abs=0.01)


@pytest.mark.parametrize("name", SCHEDULES)
def test_eta_one_is_the_ancestral_sampler(name: str) -> None:
    schedule, problem = SCHEDULES[name], Gaussian()
    times = torch.linspace(schedule.t_max, 0, 13, dtype=torch.float64)
    start = Streams([8]).normal((1, 16)).double()
    ours, theirs = (
        s.sample(problem.denoise(schedule), start, times, schedule, streams=Streams([9]))
        for s in (sampler(1.0), DDPMSampler(DDPMConfig()))
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_temperature_scales_the_fresh_noise_only() -> None:
    times = EvenGrid(TrailingConfig()).times(SD, 1000)[[0, 500]]
    start = torch.ones(1, 4, dtype=torch.float64)
    cold, cool, warm = (
        sampler(0.8, temperature).sample(denoiser(SD), start, times, SD, streams=Streams([1]))
        for temperature in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(cool - cold, 0.5 * (warm - cold))
    assert float((warm - cold).abs().max()) > 0.01
    # No noise at all needs no streams.
    assert torch.equal(cold, sampler(0.8, 0.0).sample(denoiser(SD), start, times, SD))


def test_an_example_does_not_depend_on_its_batch_mates() -> None:
    start, times = Streams([5, 6, 7]).normal((3, 2, 4)), EvenGrid(TrailingConfig()).times(SD, 6)
    together = sampler(1.0).sample(denoiser(SD), start, times, SD, streams=Streams([1, 2, 3]))
    alone = sampler(1.0).sample(denoiser(SD), start[1:2], times, SD, streams=Streams([2]))
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-6)


def test_fresh_noise_needs_streams() -> None:
    times = EvenGrid(TrailingConfig()).times(SD, 4)
    with pytest.raises(ValueError, match="streams"):
        sampler(0.5).sample(denoiser(SD), torch.ones(1, 2), times, SD)


def test_callbacks_see_every_step_and_may_replace_x() -> None:
    times, seen = EvenGrid(TrailingConfig()).times(SD, 4), []

    def on_step(index: int, t: Tensor, x: Tensor, x0: Tensor) -> Tensor | None:
        seen.append((index, float(t), t.dim(), x.shape == x0.shape))
        return torch.full_like(x, 9.0) if index == 3 else None

    start = torch.ones(2, 3)
    out = sampler().sample(denoiser(SD), start, times, SD, on_step=on_step)
    assert seen == [(0, 750.0, 0, True), (1, 500.0, 0, True), (2, 250.0, 0, True), (3, 0.0, 0, True)]
    assert torch.equal(out, torch.full((2, 3), 9.0))
    assert torch.equal(start, torch.ones(2, 3))


@pytest.mark.parametrize("settings", [{"eta": -0.1}, {"eta": 1.5}, {"temperature": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        structure(settings, DDIMConfig, "sampler")
