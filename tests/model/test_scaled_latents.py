"""Sampling latents of another scale beside the noise: levels in closed form, and what a run makes of known data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from assembled import assembled
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor

from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.catalog import Catalog
from ldm_core.contracts import Estimate, NoiseSchedule
from ldm_core.errors import ConfigError
from ldm_core.model.steps import ScaledLatentsGrid, log_ratio

SD = VPSchedule(VPConfig(beta_start=0.00085, beta_end=0.012))
CATALOG = Catalog.discover()
EVEN: Any = CATALOG.make("time_grid", "trailing")


def grid(scale: float) -> ScaledLatentsGrid:
    return ScaledLatentsGrid(EVEN, scale)


@pytest.mark.parametrize("scale", [0.25, 0.7, 2.0])
def test_the_signal_to_noise_ratio_is_the_scale_s_square(scale: float) -> None:
    """SNR' = scale² SNR at each level; below 1, of a grid drawn together so that its first level ends at t_max."""
    plain, moved = EVEN.times(SD, 20), grid(scale).times(SD, 20)
    assert moved[0] == SD.t_max and moved[-1] == 0 and bool((moved.diff() < 0).all())
    drawn = plain
    if scale < 1:
        top = 2 * (math.log(scale) - float(log_ratio(SD, plain[0])))  # the log ratio of signal to noise to begin from
        low, high = 0.0, SD.t_max
        for _ in range(60):
            middle = (low + high) / 2
            above = -2 * float(log_ratio(SD, torch.tensor(middle, dtype=torch.float64))) > top - 4 * math.log(scale)
            low, high = (middle, high) if above else (low, middle)
        drawn = plain * (high / SD.t_max)
    found, given = (-2 * log_ratio(SD, t[1:-1]) for t in (moved, drawn))
    torch.testing.assert_close(found, given + 2 * math.log(scale), rtol=1e-9, atol=1e-9)


def test_on_even_times_it_is_the_shift_of_large_pictures() -> None:
    """Esser et al. 2024: noise `shift` times as large is the scale 1 / shift."""
    shifted = CATALOG.make("time_grid", "shifted", shift=3.0)
    for schedule in (SD, CATALOG.make("schedule", "rectified_flow")):
        even = ScaledLatentsGrid(EVEN, 1 / 3.0)
        torch.testing.assert_close(even.times(schedule, 10), shifted.times(schedule, 10), rtol=1e-9, atol=1e-9)


class Normal:
    """The exact model of latents N(0, std²) under `schedule`, and the deterministic run down given times."""

    def __init__(self, schedule: NoiseSchedule, std: float) -> None:
        self.schedule, self.std = schedule, std

    def __call__(self, x: Tensor, t: Tensor) -> Estimate:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return Estimate(gain.view(-1, 1).to(x) * x, None)


class Scaled(NoiseSchedule):
    """The process of latents of `scale` times their size: its own levels at the very same times."""

    table_steps = None

    def __init__(self, scale: float) -> None:
        self.scale, self.t_max = scale, SD.t_max

    def alpha(self, t: Tensor) -> Tensor:
        return self.scale * SD.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return SD.sigma(t)

    def noise_level(self, t: Tensor) -> Tensor:
        return SD.noise_level(t)

    def draw(self, u: Tensor) -> Tensor:
        return SD.draw(u)


def test_a_run_is_that_of_the_scaled_process() -> None:
    """x = alpha scale z + sigma eps and the trained x at the moved level differ by a factor: so do whole runs of the
    exact models, up to the levels in common. For normal data the end is the closed form of each step's factor."""
    sampler: Any = CATALOG.make("sampler", "ddim")
    scale, std = 2.0, 0.8
    times = EVEN.times(SD, 25)
    moved = grid(scale).times(SD, 25)
    x = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)).double()
    own = Normal(SD, std)
    # begun at the second level of both, where x of the trained process is c times that of the scaled one
    trained, process = moved[1:], times[1:]
    c = float(SD.sigma(trained[0]) / SD.sigma(process[0]))
    of_trained = sampler.sample(own, x * c, trained, SD)
    of_process = sampler.sample(Normal(Scaled(scale), std), x, process, Scaled(scale))
    torch.testing.assert_close(of_trained * scale, of_process, rtol=1e-6, atol=1e-6)
    factor = 1.0
    for s, t in zip(process.tolist()[:-1], process.tolist()[1:], strict=True):
        at = [torch.tensor(v, dtype=torch.float64) for v in (s, t)]
        (a, e), (b, f) = ([float(of(v)) for v in at] for of in (Scaled(scale).alpha, SD.sigma))
        gain = a * std**2 / (a * a * std**2 + b * b)
        factor *= e * gain + f * (1 - a * gain) / b
    torch.testing.assert_close(of_process, factor * x, rtol=1e-6, atol=1e-6)


def test_it_is_a_setting_of_sampling_and_1_changes_nothing() -> None:
    pipeline = assembled()
    given: dict[str, Any] = {"inputs": {"class_label": 1}, "images": 1, "steps": 2, "seed": 1}
    plain, one, half = (
        p.sample(**given)[0]
        for p in (
            pipeline,
            pipeline.with_settings(["sample.latent_scale=1"]),
            pipeline.with_settings(["sample.latent_scale=0.5"]),
        )
    )
    assert (plain.image == one.image).all() and (plain.image != half.image).any()
    assert '"latent_scale": 0.5' in half.metadata["recipe"]
    with pytest.raises(ConfigError, match=r"latent_scale: expected more than 0"):
        pipeline.with_settings(["sample.latent_scale=0"])
