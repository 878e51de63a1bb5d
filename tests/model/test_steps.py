"""The steps of a sampler: against the betas of the table, the identities of the levels, and an observer of its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.contracts import Estimate, NoiseSchedule
from ldm_core.contracts.streams import Streams
from ldm_core.model.steps import Steps
from ldm_core.testing.gaussian import FlowSchedule

TIMES = torch.tensor([900.0, 400.0, 399.0, 0.0], dtype=torch.float64)


def half(x: Tensor, t: Tensor) -> Estimate:
    """A model whose x0 is half of x, in double precision."""
    assert t.shape == (len(x),)
    return Estimate(x.double() / 2)


def steps_of(schedule: NoiseSchedule, times: Tensor = TIMES, **given: object) -> Steps:
    return Steps(half, times, schedule, **given)  # type: ignore[arg-type]


def test_the_numbers_of_the_steps_and_the_model_s_estimate() -> None:
    steps, x = steps_of(VPSchedule(VPConfig())), torch.ones(2, 3)
    assert list(steps) == [0, 1, 2] and len(steps) == 3
    assert steps.x0(1, x).dtype == torch.float32 and steps.estimate(1, x).x0.dtype == torch.float64
    assert steps.x0(1, x).tolist() == [[0.5] * 3] * 2


def test_the_coefficients_are_those_of_the_levels() -> None:
    config = VPConfig()
    steps = steps_of(VPSchedule(config))
    for alpha, sigma, lambda_ in zip(steps.alpha[:-1], steps.sigma[:-1], steps.lambda_[:-1], strict=True):
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-12)
        assert math.exp(lambda_) == pytest.approx(alpha / sigma)
    assert steps.lambda_[-1] == math.inf and math.isinf(steps.h(2))
    # between neighbours of the table, noising adds that level's beta
    betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.steps, dtype=torch.float64) ** 2
    assert steps.added_variance(1) == pytest.approx(float(betas[399]), rel=1e-9)
    share = float(torch.prod(1 - betas[399:900]))
    assert steps.added_variance(0, 2) == pytest.approx(1 - share, rel=1e-9)


@pytest.mark.parametrize("schedule", [VPSchedule(VPConfig()), FlowSchedule()])
def test_an_euler_step_keeps_x0_and_eps(schedule: NoiseSchedule) -> None:
    times = torch.tensor([0.8, 0.3], dtype=torch.float64) * schedule.t_max
    steps = steps_of(schedule, times)
    x0, eps = torch.tensor([[0.3, -1.0]], dtype=torch.float64), torch.tensor([[1.5, 0.2]], dtype=torch.float64)
    x = steps.alpha[0] * x0 + steps.sigma[0] * eps
    torch.testing.assert_close(steps.eps(0, x, x0), eps)
    torch.testing.assert_close(steps.euler(0, x, x0), steps.alpha[1] * x0 + steps.sigma[1] * eps)
    for eta in (0.0, 0.4, 1.0):  # the noise that stays and the fresh one are together that of the level
        keep, fresh = steps.ddim(0, eta)
        assert (keep * steps.sigma[0]) ** 2 + fresh**2 == pytest.approx(steps.sigma[1] ** 2)
        kept = steps.alpha[1] * x0 + keep * steps.sigma[0] * eps
        torch.testing.assert_close(steps.euler(0, x, x0, keep), kept)
    # with eta 1 it is the posterior of x at the lower level, given x and x0
    added, (sigma_t, sigma_s) = steps.added_variance(0), steps.sigma
    assert fresh**2 == pytest.approx(added * sigma_s**2 / sigma_t**2)


def test_noise_comes_from_the_streams_and_needs_them() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    drawn = steps_of(VPSchedule(VPConfig()), streams=Streams([4, 5])).draw(x)
    assert drawn.dtype == x.dtype and torch.equal(drawn, Streams([4, 5]).normal((2, 3)).double())
    with pytest.raises(ValueError, match="give it `streams`, one seed an example"):
        steps_of(VPSchedule(VPConfig())).draw(x)


def test_an_observer_sees_each_step_and_may_replace_x() -> None:
    seen: list[tuple[int, float]] = []
    other = torch.full((1, 2), 7.0)

    def on_step(i: int, t: Tensor, x: Tensor, x0: Tensor) -> Tensor | None:
        seen.append((i, float(t)))
        return other if i == 1 else None

    steps, x = steps_of(VPSchedule(VPConfig()), on_step=on_step), torch.zeros(1, 2)
    assert steps.done(0, x, x) is x and steps.done(1, x, x) is other
    assert seen == [(0, 400.0), (1, 399.0)]
