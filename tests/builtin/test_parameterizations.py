"""Every parameterization turns its exact prediction back into x0, on every schedule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm_core.builtin.diffusion.config import EpsConfig, VConfig, VPConfig, X0Config
from ldm_core.builtin.diffusion.parameterizations import EpsParameterization, VParameterization, X0Parameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.contracts import NoiseSchedule, Parameterization
from ldm_core.testing.gaussian import FlowSchedule, VESchedule

SCHEDULES = [VPSchedule(VPConfig()), VPSchedule(VPConfig(kind="cosine")), VESchedule(), FlowSchedule()]
EPS, X0, V = EpsParameterization(EpsConfig()), X0Parameterization(X0Config()), VParameterization(VConfig())


def exact(name: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a network predicts when it knows everything, by the definition of each parameterization."""
    if name == "eps":
        return eps
    return x0 if name == "x0" else (alpha * eps - sigma * x0) / (alpha**2 + sigma**2).sqrt()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["vp", "cosine", "ve", "flow"])
@pytest.mark.parametrize(("name", "parameterization"), [("eps", EPS), ("x0", X0), ("v", V)])
def test_the_exact_prediction_gives_x0_back(
    name: str, parameterization: Parameterization, schedule: NoiseSchedule
) -> None:
    assert isinstance(parameterization, Parameterization)
    t = torch.linspace(0, schedule.t_max, 41, dtype=torch.float64)
    if name == "eps" and float(schedule.alpha(t[-1])) == 0:
        t = t[:-1]
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn((2, 41), generator=generator, dtype=torch.float64)[:, : len(t)]
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    c_skip, c_out, c_in = parameterization.coefficients(alpha, sigma)
    x = alpha * x0 + sigma * eps
    torch.testing.assert_close(c_skip * x + c_out * exact(name, x0, eps, alpha, sigma), x0, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(c_in * (alpha**2 + sigma**2).sqrt(), torch.ones_like(t))
    assert c_skip.dtype == c_out.dtype == c_in.dtype == torch.float64


def test_coefficients_on_a_variance_preserving_schedule() -> None:
    alpha, sigma = torch.tensor([0.6]).double(), torch.tensor([0.8]).double()
    for parameterization, expected in [
        (EPS, (1 / 0.6, -0.8 / 0.6, 1)),
        (X0, (0, 1, 1)),
        (V, (0.6, -0.8, 1)),
    ]:
        assert [float(c) for c in parameterization.coefficients(alpha, sigma)] == pytest.approx(expected)


def test_v_on_a_variance_exploding_schedule_is_as_published() -> None:
    # Stable Video Diffusion: c_skip = 1 / (sigma² + 1), c_out = -sigma / sqrt(sigma² + 1)
    found = V.coefficients(torch.tensor([1.0]).double(), torch.tensor([3.0]).double())
    assert [float(c) for c in found] == pytest.approx((0.1, -3 / 10**0.5, 1 / 10**0.5))


def test_only_eps_needs_signal_at_the_end() -> None:
    assert EpsConfig().needs_terminal_alpha
    assert not X0Config().needs_terminal_alpha
    assert not VConfig().needs_terminal_alpha
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for parameterization in (X0, V):
        assert all(bool(torch.isfinite(c).all()) for c in parameterization.coefficients(zero, one))
