"""One part in a DeepSpeed engine, at every ZeRO stage, against a plain torch loop: steps, norms, discards, offload."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm_core.errors import ComponentError, ConfigError
from ldm_core.nn.recompute import recompute
from ldm_core.recipe.settings import EngineSettings
from ldm_core.training.engine import world
from ldm_core.training.engine.loss_scale import MAXIMUM, LossScale
from ldm_core.training.engine.part import Part, require_machine
from ldm_core.training.engine.world import World

SPREAD = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # else small parameters stay whole


@pytest.fixture(scope="module")
def here() -> World:
    return world.start()


class Squares(nn.Module):
    """Mean squared error of a small network; `forward` is the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.net(x) - y).square().mean()


def settings(**changes: Any) -> EngineSettings:
    base: dict[str, Any] = {"images_per_step": 4, "lr": 1e-2, "clip": 0.05, "deepspeed": SPREAD}
    if changes.get("zero", 0) != 3:
        base["deepspeed"] = {}
    return EngineSettings(**{**base, **changes})


def data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)


def train(part: Part, steps: int, *, discarded: int | None = None, accumulate: int = 1) -> list[float]:
    """The gradient norms; at step `discarded` the step is left out."""
    norms = []
    for step in range(steps):
        x, y = data(step)
        for i, (a, b) in enumerate(zip(x.chunk(accumulate), y.chunk(accumulate), strict=True)):
            part.backward(part.engine(a, b))
            if step == discarded and i == accumulate - 1:
                part.discard()
                assert not part.applied
            else:
                norm = part.step(measure=True)
        if step != discarded:
            assert part.applied and norm is not None
            norms.append(norm)
    return norms


def plain(steps: int, discarded: int | None = None) -> tuple[dict[str, Tensor], list[float]]:
    """The same by torch alone."""
    module, norms = Squares(), []
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0.01)
    for step in range(steps):
        if step == discarded:
            continue
        optimizer.zero_grad()
        module(*data(step)).backward()
        norms.append(float(nn.utils.clip_grad_norm_(module.parameters(), 0.05)))
        optimizer.step()
    return dict(module.state_dict()), norms


def state(part: Part) -> dict[str, Tensor]:
    with part.gathered():
        return {k: v.detach().clone() for k, v in part.module.state_dict().items()}


CASES = [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (1, "optimizer"), (2, "optimizer"), (3, "optimizer"),
         (3, "all")]  # fmt: skip


@pytest.mark.parametrize(("zero", "offload"), CASES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_stage_steps_as_torch_does(here: World, zero: int, offload: Any, accumulate: int) -> None:
    """Weights and norms, with a discarded step in between that leaves no trace: not in weights, not in moments."""
    chosen = settings(zero=zero, offload=offload, accumulate=accumulate)
    part = Part("model", Squares(), chosen, here, "trainer")
    norms = train(part, 5, discarded=2, accumulate=accumulate)
    expected, expected_norms = plain(5, discarded=2)
    assert norms == pytest.approx(expected_norms, rel=1e-5)
    for name, value in state(part).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_gradients_that_are_not_finite_are_dropped(here: World, zero: int) -> None:
    part = Part("model", Squares(), settings(zero=zero, bad_steps="skip"), here, "trainer")
    before = state(part)
    x, y = data(0)
    part.backward(part.engine(x, y) * math.inf)
    part.step()
    assert not part.applied
    assert all(torch.equal(before[k], v) for k, v in state(part).items())
    part.backward(part.engine(x, y))
    part.step()
    assert part.applied
    assert not all(torch.equal(before[k], v) for k, v in state(part).items())


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_loss_scale_changes_nothing_but_the_range(here: World, zero: int) -> None:
    """fp16's scale on fp32 arithmetic (a CPU has no fp16 training): equal weights and norms; an overflow halves it."""
    part = Part("model", Squares(), settings(zero=zero), here, "trainer")
    part.loss_scale = LossScale(initial=1024.0, window=3)
    assert train(part, 5) == pytest.approx(plain(5)[1], rel=1e-5)
    expected = plain(5)[0]
    for name, value in state(part).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    assert (part.loss_scale.value, part.loss_scale.good) == (2048.0, 2)
    x, y = data(9)
    part.backward(part.engine(x, y) * 1e38)  # overflows in float32 once scaled
    part.step()
    assert not part.applied and part.loss_scale.value == 1024.0


def test_the_loss_scale_adapts_and_resumes() -> None:
    scale = LossScale.of({"initial_scale_power": 3.0, "loss_scale_window": 2.0, "min_loss_scale": 4.0})
    for finite, value in ((True, 8), (True, 16), (False, 8), (False, 4), (False, 4), (True, 4), (True, 8)):
        scale.update(finite=finite)
        assert scale.value == value
    scale.update(finite=True)
    again = LossScale()
    again.load(scale.state())
    assert (again.value, again.good) == (8.0, 1)
    fixed = LossScale.of({"loss_scale": 128.0})
    fixed.update(finite=False)
    assert fixed.value == 128.0
    top = LossScale(initial=MAXIMUM, window=1)
    top.update(finite=True)
    assert top.value == MAXIMUM


def test_discard_is_for_the_end_of_an_accumulation(here: World) -> None:
    part = Part("model", Squares(), settings(accumulate=2), here, "trainer")
    x, y = data(0)
    part.backward(part.engine(x[:2], y[:2]))
    with pytest.raises(RuntimeError, match="last step of an accumulation"):
        part.discard()


def test_fp16_is_refused_on_a_cpu() -> None:
    said = "trainer.precision: fp16 needs an accelerator and this run is on the CPU; use bf16 .* or fp32"
    with pytest.raises(ConfigError, match=said):
        require_machine(settings(precision="fp16"), torch.device("cpu"), "trainer")
    require_machine(settings(precision="fp16"), torch.device("cuda"), "trainer")


def test_compile_says_that_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    said = r"trainer.compile: torch.compile needs a C\+\+ compiler here and none of g\+\+, clang\+\+, cl"
    with pytest.raises(ConfigError, match=said):
        require_machine(settings(compile=True), torch.device("cpu"), "trainer")
    require_machine(settings(), torch.device("cpu"), "trainer")


def test_a_parameter_without_dimension_is_named(here: World) -> None:
    module = Squares()
    module.log_variance = nn.Parameter(torch.zeros(()))
    with pytest.raises(ComponentError, match=r"part 'model': parameter 'log_variance' has no dimension.*shape \(1,\)"):
        Part("model", module, settings(), here, "trainer")


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_channels_last_weights_are_taken(here: World, zero: int) -> None:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).square().mean()

    module = Convolution().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    part = Part("model", module, settings(zero=zero), here, "trainer")
    part.backward(part.engine(torch.ones(2, 2, 4, 4)))
    norm = part.step(measure=True)
    reference = Convolution()
    reference.load_state_dict(weights)
    reference(torch.ones(2, 2, 4, 4)).backward()
    expected = torch.stack([p.grad.norm() for p in reference.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(float(expected), rel=1e-5)
    if not zero:
        assert module.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_network_without_blocks_says_so(here: World) -> None:
    module = Squares()
    chosen = settings(activation_checkpointing=True)
    with pytest.raises(ConfigError, match="activation_checkpointing: Sequential names no blocks of its own"):
        Part("model", module, chosen, here, "trainer", networks=[module.net])


class Blocks(nn.Module):
    """Two blocks with dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 4)) for _ in range(2)
        )
        self.kept = 0

    def recompute_blocks(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        def keep(value: Tensor) -> Tensor:
            self.kept += 1
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v):
            for block in self.blocks:
                x = block(x)
        return x.square().mean()


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_recomputed_blocks_have_equal_gradients_and_keep_less(here: World, zero: int) -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    found, kept = [], []
    for on in (False, True):
        module = Blocks()
        names = list(module.state_dict())
        part = Part(
            "model", module, settings(zero=zero, activation_checkpointing=on), here, "trainer", networks=[module]
        )
        torch.manual_seed(3)
        part.backward(part.engine(x))
        part.step()
        assert list(module.state_dict()) == names
        found.append(state(part))
        kept.append(module.kept)
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert kept[1] < kept[0] / 2
    assert recompute(module.recompute_blocks()) == 2  # a second call does not wrap again
    assert module.eval()(x).grad_fn is not None
