"""The simple loss against what an oracle network must score, for every parameterization and schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm_core import Denoiser
from ldm_core.builtin.diffusion.config import SimpleConfig, VPConfig
from ldm_core.builtin.diffusion.objectives import SimpleObjective
from ldm_core.builtin.diffusion.parameterizations import EpsParameterization, VParameterization, X0Parameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.contracts import NoiseSchedule, Objective, Parameterization
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import Model
from ldm_core.testing.gaussian import FlowSchedule

X0 = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
SEEDS = (11, 12, 13)
PARAMETERIZATIONS = {"eps": EpsParameterization(), "x0": X0Parameterization(), "v": VParameterization()}


class Fixed(Denoiser, nn.Module):
    """Answers with a value that it was given, whatever it is asked; two channels more than asked for."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return torch.cat([self.answer, torch.full_like(x, 7.0)], 1)


def draws(schedule: NoiseSchedule, seeds: tuple[int, ...] = SEEDS) -> tuple[Tensor, Tensor, Tensor]:
    """alpha, sigma (B, 1, 1, 1) and eps as the objective draws them: time first, then noise."""
    streams = Streams(seeds)
    t = schedule.draw(streams.uniform((len(seeds),)))
    eps = streams.normal((len(seeds), 2, 4, 4))
    return schedule.alpha(t).view(-1, 1, 1, 1), schedule.sigma(t).view(-1, 1, 1, 1), eps.double()


def exact(name: str, schedule: NoiseSchedule) -> Tensor:
    alpha, sigma, eps = draws(schedule)
    v = (alpha * eps - sigma * X0) / (alpha**2 + sigma**2).sqrt()
    return {"eps": eps, "x0": X0.double(), "v": v}[name].float()


def run(answer: Tensor, parameterization: Parameterization, schedule: NoiseSchedule, **settings: Any) -> Tensor:
    objective = SimpleObjective(SimpleConfig(**settings))
    assert isinstance(objective, Objective)
    out = objective.loss(Model(Fixed(answer), schedule, parameterization), X0, Cond(), streams=Streams(SEEDS))
    assert out.value.shape == (3,)
    assert out.value.dtype == torch.float32
    return out.value


@pytest.mark.parametrize("schedule", [VPSchedule(VPConfig()), FlowSchedule()], ids=["vp", "flow"])
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_an_oracle_scores_its_own_offset(name: str, schedule: NoiseSchedule) -> None:
    target, parameterization = exact(name, schedule), PARAMETERIZATIONS[name]
    assert float(run(target, parameterization, schedule).max()) < 1e-10
    l2 = run(target + 0.5, parameterization, schedule)
    torch.testing.assert_close(l2, torch.full((3,), 0.25), rtol=1e-4, atol=0)
    l1 = run(target - 0.5, parameterization, schedule, loss="l1")
    torch.testing.assert_close(l1, torch.full((3,), 0.5), rtol=1e-4, atol=0)


def test_a_silent_network_scores_the_noise() -> None:
    _, _, eps = draws(VPSchedule(VPConfig()))
    value = run(torch.zeros_like(X0), PARAMETERIZATIONS["eps"], VPSchedule(VPConfig()))
    torch.testing.assert_close(value.double(), eps.square().mean((1, 2, 3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("weighting", ["eps", "x0"])
def test_weighting_measures_the_same_error_elsewhere(name: str, weighting: str) -> None:
    schedule = VPSchedule(VPConfig())
    alpha, sigma, _ = draws(schedule)
    # An error e of the prediction is c_out e in x0, and alpha / sigma times that in the noise.
    x0_error = {"eps": sigma / alpha, "x0": torch.ones_like(alpha), "v": sigma}[name] * 0.1
    expected = (x0_error if weighting == "x0" else x0_error * alpha / sigma).square().flatten()
    value = run(exact(name, schedule) + 0.1, PARAMETERIZATIONS[name], schedule, weighting=weighting)
    torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=0)


def test_small_sigma_costs_no_digits() -> None:
    # One level only, sigma = 1e-4: a target taken as a float32 difference would be off by more than 1e-4.
    schedule = VPSchedule(VPConfig(beta_start=1e-8, beta_end=1e-8, steps=1))
    assert float(run(exact("eps", schedule), PARAMETERIZATIONS["eps"], schedule).max()) < 1e-12


def test_an_example_does_not_depend_on_its_batch_mates() -> None:
    schedule, objective = VPSchedule(VPConfig()), SimpleObjective(SimpleConfig())
    together = run(torch.zeros_like(X0), PARAMETERIZATIONS["v"], schedule)
    for i, seed in enumerate(SEEDS):
        row = X0[i : i + 1]
        model = Model(Fixed(torch.zeros_like(row)), schedule, PARAMETERIZATIONS["v"])
        alone = objective.loss(model, row, Cond(), streams=Streams([seed])).value
        torch.testing.assert_close(alone[0], together[i], rtol=1e-6, atol=0)


def test_inputs_stay_and_gradients_reach_the_network() -> None:
    answer = torch.zeros_like(X0, requires_grad=True)
    before = X0.clone()
    model = Model(Fixed(answer), VPSchedule(VPConfig()), PARAMETERIZATIONS["eps"])
    SimpleObjective(SimpleConfig()).loss(model, X0, Cond(), streams=Streams(SEEDS)).value.mean().backward()
    assert torch.equal(X0, before)
    assert answer.grad is not None
    assert bool(answer.grad.ne(0).any())
