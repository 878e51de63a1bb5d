"""The model around a network: exact inversion, branches together and apart, dropout of conditions."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm_core.contracts import Batch, Conditioner, CondSpec, Denoiser
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.model.diffusion import Model, make_predict, per_example
from ldm_core.testing import toys


class Exact(Denoiser, nn.Module):
    """A network that knows x0 and eps, and puts out what its parameterization calls for, with 2 channels more."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        self.seen.append((x, noise_level))
        return torch.cat([self.target, torch.full_like(self.target[:, :2], 7.0)], 1)


def targets(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Mapping[str, Tensor]:
    """What F is, by the definitions of the papers."""
    n = (alpha**2 + sigma**2).rsqrt()
    return {"eps": eps, "x0": x0, "v": n * (alpha * eps - sigma * x0), "flow": eps - x0}


@pytest.mark.parametrize("schedule", ["table", "ve", "flow"])
@pytest.mark.parametrize("parameterization", ["eps", "x0", "v", "flow"])
def test_an_exact_network_gives_x0_back(schedule: str, parameterization: str) -> None:
    torch.manual_seed(0)
    forward = toys.schedules()[schedule]
    x0, eps = torch.randn(5, 3, 4, 6, dtype=torch.float64), torch.randn(5, 3, 4, 6, dtype=torch.float64)
    t = torch.tensor([0.02, 0.2, 0.5, 0.8, 0.95], dtype=torch.float64) * forward.t_max
    alpha, sigma = (per_example(c, x0) for c in (forward.alpha(t), forward.sigma(t)))
    network = Exact(targets(x0, eps, alpha, sigma)[parameterization])
    model = Model(network, forward, toys.parameterizations()[parameterization])
    x = alpha * x0 + sigma * eps
    # one float32 rounding of F, magnified by c_out: at the noisy end of VE x0 is a small part of a large x
    c_out = model.coefficients(t)[1].abs().max()
    estimate = model(x, t, Cond())
    assert estimate.x0.dtype == torch.float64
    assert float((estimate.x0 - x0).abs().max()) < 1e-6 * (1 + float(c_out))
    assert estimate.extra is not None and torch.equal(estimate.extra, torch.full((5, 2, 4, 6), 7.0))
    given, level = network.seen[0]
    assert level.dtype == torch.float32 and torch.equal(level, forward.noise_level(t).float())
    torch.testing.assert_close(given, x * per_example(model.coefficients(t)[2], x))


def test_per_example_broadcasts_over_everything_behind_the_batch() -> None:
    value = torch.tensor([2.0, 3.0], dtype=torch.float64)
    like = torch.ones(2, 3, 4, 5, 6)
    assert per_example(value, like).shape == (2, 1, 1, 1, 1) and per_example(value, like).dtype == torch.float32


# ------------------------------------------------------------------------------------------------- branches


def branch(rows: int, tokens: int, seed: int, **more: Any) -> Cond:
    generator = torch.Generator().manual_seed(seed)
    return Cond(
        crossattn=torch.randn(rows, tokens, 8, generator=generator),
        vector=torch.randn(rows, 6, generator=generator),
        **more,
    )


def test_branches_together_are_branches_apart() -> None:
    model = toys.toy_model(cond=CondSpec(crossattn=8, vector=6), parameterization="v")
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([300.0, 700.0])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    branches = [branch(2, 5, 0), branch(2, 3, 1)._replace(crossattn_mask=mask), branch(2, 1, 2)]
    calls: list[int] = []
    model.denoiser.register_forward_hook(lambda m, given, out: calls.append(len(given[0])))  # type: ignore[attr-defined]
    with torch.no_grad():
        apart = make_predict(model, together=False)(x, t, branches)
        assert calls == [2, 2, 2]
        calls.clear()
        together = make_predict(model)(x, t, branches)
        assert calls == [6]
        alone = [model(x, t, c) for c in branches]
    for a, b, c in zip(together, apart, alone, strict=True):
        torch.testing.assert_close(a.x0, b.x0, rtol=1e-5, atol=1e-6)
        assert torch.equal(b.x0, c.x0)


def test_branches_with_other_options_or_parts_run_apart() -> None:
    model = toys.toy_model(cond=CondSpec(crossattn=8, vector=6))
    calls: list[int] = []
    model.denoiser.register_forward_hook(lambda m, given, out: calls.append(len(given[0])))  # type: ignore[attr-defined]
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([300.0, 700.0])
    plain, optional = branch(2, 5, 0), branch(2, 5, 1, options={"skip": (3,)})
    partial = branch(2, 5, 2)._replace(vector=None)
    with torch.no_grad():
        out = make_predict(model)(x, t, [plain, optional, partial, branch(2, 5, 3)])
        assert sorted(calls) == [2, 2, 4]
        for estimate, cond in zip(out, [plain, optional, partial, branch(2, 5, 3)], strict=True):
            torch.testing.assert_close(estimate.x0, model(x, t, cond).x0, rtol=1e-5, atol=1e-6)


def test_bundles_that_are_new_at_each_step_do_not_pile_up() -> None:
    model = toys.toy_model(cond=CondSpec(crossattn=8, vector=6))
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([300.0, 700.0])
    predict, kept, first = make_predict(model), branch(2, 5, 0), branch(2, 5, 1)
    assert first.crossattn is not None
    held = weakref.ref(first.crossattn)
    with torch.no_grad():
        (before,) = predict(x, t, [kept])
        predict(x, t, [first])
        del first
        assert held() is not None  # for the steps to come
        for i in range(40):
            predict(x, t, [branch(2, 5, i)])
        assert held() is None
        assert torch.equal(predict(x, t, [kept])[0].x0, before.x0)


# ------------------------------------------------------------------------------------------------- dropout


class Marker(Conditioner, nn.Module):
    """Writes 1 where the condition is there and 0 where it is not."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        self.spec = CondSpec(vector=1)
        self.reads = ("mark",)

    def encode(self, batch: Batch) -> Cond:
        return Cond(vector=torch.ones(len(batch["mark"]), 1))

    def null(self, like: Cond) -> Cond:
        assert like.vector is not None
        return Cond(vector=torch.zeros_like(like.vector))


def kept(rows: int, rates: Mapping[str, float], joint: float, *, first: int = 0) -> Tensor:
    """(rows, 2) of 0 and 1: which conditioner, a or b, each example kept."""
    model = Model(
        toys.ToyDenoiser(),
        toys.schedules()["table"],
        toys.parameterizations()["eps"],
        {name: Marker(name) for name in ("a", "b")},
    )
    streams = Streams([mix_seed("dropout", i) for i in range(first, first + rows)])
    vector = model.dropped({"mark": [0] * rows}, rates, joint, streams).vector
    assert vector is not None
    return vector


def test_conditions_are_dropped_at_their_rates() -> None:
    rows, (a, b, joint) = 8000, (0.3, 0.1, 0.2)
    there = kept(rows, {"a": a, "b": b}, joint)
    expected = {
        "a": (1 - joint) * (1 - a),
        "b": (1 - joint) * (1 - b),
        "both": (1 - joint) * (1 - a) * (1 - b),  # independent but for the joint drop
        "none": joint + (1 - joint) * a * b,
    }
    seen = {
        "a": float(there[:, 0].mean()),
        "b": float(there[:, 1].mean()),
        "both": float((there.sum(1) == 2).float().mean()),
        "none": float((there.sum(1) == 0).float().mean()),
    }
    for name, share in expected.items():
        assert abs(seen[name] - share) < 4 * (share * (1 - share) / rows) ** 0.5, (name, seen[name], share)


def test_what_is_dropped_depends_on_the_example_alone() -> None:
    rates = {"a": 0.5, "b": 0.5}
    whole = kept(64, rates, 0.2)
    assert torch.equal(whole[10:30], kept(20, rates, 0.2, first=10))
    # raising b's rate leaves a as it was
    assert torch.equal(whole[:, 0], kept(64, {"a": 0.5, "b": 0.9}, 0.2)[:, 0])


def test_rates_of_0_and_1() -> None:
    assert bool(kept(50, {}, 0.0).all())
    assert not bool(kept(50, {}, 1.0).any())
    there = kept(50, {"a": 1.0}, 0.0)
    assert not bool(there[:, 0].any()) and bool(there[:, 1].all())


def test_without_conditioners_the_bundle_is_empty() -> None:
    assert toys.toy_model().dropped({}, {}, 0.5, Streams([1, 2])) == Cond()


def test_the_model_is_float32_outside_the_network_under_bf16() -> None:
    model = toys.toy_model(cond=CondSpec(crossattn=8, vector=6))
    model.precision = "bf16"
    dtypes: list[torch.dtype] = []
    conv: Any = model.denoiser.mix  # type: ignore[attr-defined]
    conv.register_forward_hook(lambda m, given, out: dtypes.append(out.dtype))
    with torch.no_grad():
        x0 = model(torch.randn(1, 4, 4, 4), torch.tensor([500.0]), branch(1, 2, 0)).x0
    assert dtypes == [torch.bfloat16] and x0.dtype == torch.float32
