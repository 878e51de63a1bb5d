"""Classifier-free guidance: the published rule, the branches that it asks for, batched and one by one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from ldm_plugin_cfg.config import CFGConfig
from ldm_plugin_cfg.guidance import ClassifierFreeGuidance
from torch import Tensor, nn

from ldm_core import Denoiser
from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.parameterizations import EpsParameterization, VParameterization, X0Parameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.contracts import Cond, Conditions, Estimate, Guidance, Parameterization
from ldm_core.model.diffusion import Model, make_predict

VP = VPSchedule(VPConfig())
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
T = torch.tensor([120.0, 700.0], dtype=torch.float64)
COND, NULL = Cond(vector=torch.tensor([[1.0], [2.0]])), Cond(vector=torch.zeros(2, 1))
CONDITIONS = Conditions({"a": COND}, {"a": NULL})


class Shifts(Denoiser, nn.Module):
    """F depends on x and on the condition; one channel more than x has; counts its calls and their rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        assert cond.vector is not None
        self.rows.append(x.shape[0])
        f = torch.tanh(x) + cond.vector[:, :, None, None]
        return torch.cat([f, f[:, :1]], 1)


def guidance(scale: float) -> ClassifierFreeGuidance:
    found = ClassifierFreeGuidance(CFGConfig(scale=scale))
    assert isinstance(found, Guidance)
    return found


@pytest.mark.parametrize("parameterization", [EpsParameterization(), X0Parameterization(), VParameterization()])
def test_it_is_the_published_rule_on_the_prediction(parameterization: Parameterization) -> None:
    model = Model(Shifts(), VP, parameterization)
    found = guidance(3.0).guide(make_predict(model), X, T, CONDITIONS, VP).x0
    null, cond = (model.network(X, T, c)[:, :3].double() for c in (NULL, COND))
    f = null + 3.0 * (cond - null)
    c_skip, c_out, _ = (c.view(-1, 1, 1, 1) for c in model.coefficients(T))
    torch.testing.assert_close(found.double(), c_skip * X + c_out * f, rtol=1e-4, atol=1e-4)


def test_one_call_of_both_branches_the_null_one_first() -> None:
    asked: list[Sequence[Cond]] = []

    def predict(x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Estimate]:
        asked.append(branches)
        return [Estimate(torch.full_like(x, float(i)), torch.full_like(x, 5.0 + i)) for i in range(len(branches))]

    out = guidance(7.5).guide(predict, X, T, CONDITIONS, VP)
    assert len(asked) == 1
    assert asked[0][0] is CONDITIONS.null
    assert asked[0][1] is CONDITIONS.cond
    assert torch.equal(out.x0, torch.full_like(X, 7.5))
    assert out.extra is not None
    assert torch.equal(out.extra, torch.full_like(X, 6.0))


@pytest.mark.parametrize(("scale", "cond"), [(1.0, COND), (0.0, NULL)])
def test_the_ends_of_the_scale_cost_one_branch(scale: float, cond: Cond) -> None:
    denoiser = Shifts()
    model = Model(denoiser, VP, VParameterization())
    found = guidance(scale).guide(make_predict(model), X, T, CONDITIONS, VP)
    assert denoiser.rows == [2]
    assert torch.equal(found.x0, model(X, T, cond).x0)
    assert CFGConfig(scale=scale).needs_null is (scale != 1.0)


def test_batched_equals_one_by_one() -> None:
    denoiser = Shifts()
    model = Model(denoiser, VP, VParameterization())
    together = guidance(2.0).guide(make_predict(model, together=True), X, T, CONDITIONS, VP)
    apart = guidance(2.0).guide(make_predict(model, together=False), X, T, CONDITIONS, VP)
    assert denoiser.rows == [4, 2, 2]
    torch.testing.assert_close(together.x0, apart.x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together.extra, apart.extra, rtol=1e-6, atol=1e-6)
