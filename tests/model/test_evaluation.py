"""The evaluation that hooks find: in training and runs, in threads, in models inside models, in recomputed blocks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from one_thread import each_test as _one_thread  # noqa: F401
from together import together
from torch import Tensor, nn

from ldm_core.builtin.diffusion.config import SimpleConfig
from ldm_core.builtin.diffusion.objectives import SimpleObjective
from ldm_core.builtin.unet.config import UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.contracts import (
    Adapter,
    Cond,
    Conditions,
    CondSpec,
    Estimate,
    Evaluation,
    Guidance,
    SamplingRun,
    Site,
    evaluation,
)
from ldm_core.contracts.current import during
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import Model, make_predict
from ldm_core.nn.changed_weight import change_weight
from ldm_core.nn.hooks import surround
from ldm_core.nn.recompute import recompute
from ldm_core.sampling.run import LatentOptions, guided_run
from ldm_core.testing import toys
from ldm_core.testing.base import randomize, seeded

MIDDLE = ()
"""Attention in the middle alone, and one level: a compiler takes most of a second for each block."""
TIMES = torch.tensor([900.0, 600.0, 300.0], dtype=torch.float64)


def unet(context: int = 8, attention: tuple[int, ...] = (1, 2), levels: int = 2) -> UNet:
    mult = (1, 2)[:levels]
    config = UNetConfig(channels=16, channel_mult=mult, res_blocks=1, attention=attention, heads=2, norm_groups=8)
    with seeded(0):
        network = UNet(config, Site(size=(64, 48), latent=toys.LATENT, cond=CondSpec(crossattn=context)))
    randomize(network, 1)
    return network


def model_of(network: Any, **adapters: Adapter) -> Model:
    model = toys.toy_model(denoiser=network)
    return model.beside(adapters) if adapters else model


def given(rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Cond]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, 8, 6, generator=draw)
    return x, 300.0 + 100 * torch.arange(rows).double(), Cond(crossattn=torch.randn(rows, 3, 8, generator=draw))


class Seen:
    """A hook that keeps what it found."""

    def __init__(self, *modules: nn.Module) -> None:
        self.found: list[Evaluation | None] = []
        for module in modules:
            module.register_forward_hook(self)

    def __call__(self, *_: Any) -> None:
        self.found.append(evaluation())


def test_a_hook_finds_the_call_that_it_is_part_of() -> None:
    model = model_of(unet())
    network: Any = model.denoiser
    outer, inner = Seen(network.input_blocks[0][0]), Seen(network.middle_block[1].transformer_blocks[0].attn1.to_q)
    x, t, cond = given()
    estimate = model(x, t, cond)
    assert evaluation() is None, "it ends with the call"
    (one,), (two,) = outer.found, inner.found
    assert one is not None and two is not None and one.cond is cond and one.t is t and one.run is None
    assert torch.equal(one.noise_level, model.schedule.noise_level(t).float())
    assert (one.grid, two.grid) == ((8, 6), (4, 3)), "the latents' axes, and those of the lowest level's tokens"
    assert all(x is y for x, y in zip(two._replace(grid=one.grid), one, strict=True)), "all but the grid is the same"
    assert torch.equal(model(x, t, cond).x0, estimate.x0)


@pytest.mark.parametrize("context", [0, 8])
def test_every_attention_knows_its_grid(context: int) -> None:
    model = model_of(unet(context))
    names = ("attn1.to_q",) if context else ("qkv",)
    layers = [module for name, module in model.denoiser.named_modules() if name.endswith(names)]  # type: ignore[attr-defined]
    seen, tokens = Seen(*layers), []
    for layer in layers:
        layer.register_forward_hook(lambda m, a, out: tokens.append(out.shape[1 if context else 2]))
    x, t, cond = given()
    model(x, t, cond if context else Cond())
    grids = [one.grid for one in seen.found if one is not None]
    assert len(grids) == 7 and set(grids) == {(8, 6), (4, 3)}
    assert [h * w for h, w in grids] == tokens


def test_a_failed_call_leaves_nothing() -> None:
    model = model_of(unet())
    layer: Any = model.denoiser.middle_block[1].transformer_blocks[0]  # type: ignore[attr-defined]
    handle = layer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(*given())
    assert evaluation() is None
    handle.remove()
    seen = Seen(model.denoiser.input_blocks[0][0])  # type: ignore[attr-defined]
    model(*given())
    assert seen.found[0] is not None and seen.found[0].grid == (8, 6)


def test_training_tells_hooks_too() -> None:
    model = model_of(unet())
    seen = Seen(model.denoiser.out[2])  # type: ignore[attr-defined]
    x, _, cond = given(3)
    SimpleObjective(SimpleConfig()).loss(model, x, cond, streams=Streams([1, 2, 3]))
    (one,) = seen.found
    assert one is not None and one.run is None and one.cond is cond and one.t.shape == (3,)


def test_threads_see_their_own() -> None:
    model, met = model_of(unet()), threading.Barrier(4)
    right: list[bool] = []

    def wait(module: Any, args: Any, out: Any) -> None:
        met.wait(60)  # all four are inside the network now
        now = evaluation()
        right.append(now is not None and now.cond is mine[threading.get_ident()])

    network: Any = model.denoiser
    network.middle_block[1].transformer_blocks[0].attn1.to_q.register_forward_hook(wait)
    mine: dict[int, Cond] = {}

    def call(seed: int) -> None:
        x, t, cond = given(seed=seed)
        mine[threading.get_ident()] = cond
        with torch.no_grad():
            for _ in range(3):
                model(x, t, cond)

    together(partial(call, i) for i in range(4))
    assert right == [True] * 12, "four threads call three times each"


def test_a_model_inside_a_model_has_its_own() -> None:
    outer, inner = model_of(unet()), model_of(unet())
    x, t, cond = given(seed=7)
    seen = Seen(inner.denoiser.input_blocks[0][0])  # type: ignore[attr-defined]

    def call(*_: Any) -> None:
        with torch.no_grad():
            inner(x, t, cond)

    block: Any = outer.denoiser.middle_block[1].transformer_blocks[0]  # type: ignore[attr-defined]
    block.attn1.to_q.register_forward_hook(call)
    after = Seen(block.attn1.to_k)
    mine = given()
    outer(*mine)
    (one,), (other,) = seen.found, after.found
    assert one is not None and one.cond is cond and one.grid == (8, 6)
    assert other is not None and other.cond is mine[2] and other.grid == (4, 3)


# ------------------------------------------------------------------------------------------------ recomputed, compiled


class ByLevel:
    """Scales a layer's output by the level that the evaluation tells, as an adapter would."""

    def __init__(self, layer: nn.Module) -> None:
        self.seen: list[tuple[int, ...]] = []
        layer.register_forward_hook(self)

    def __call__(self, module: Any, args: Any, out: Tensor) -> Tensor:
        now = evaluation()
        assert now is not None
        self.seen.append(now.grid)
        return out * (1 + now.noise_level[:, None, None] / 1000) * now.cond.options.get("by", 1.0)


def gradients(network: UNet, by: float, *, elsewhere: bool = False) -> list[Tensor]:
    """Gradients of a call of the network; `elsewhere`: the backward pass runs in another thread, after other calls."""
    model = model_of(network).train()
    x, t, cond = given()
    loss = model(x, t, cond._replace(options={"by": by})).x0.square().mean()
    model(x, t + 100, cond._replace(options={"by": 3.0}))
    if elsewhere:
        together([loss.backward])
    else:
        loss.backward()
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("elsewhere", [False, True])
def test_recomputed_blocks_see_the_forward_passes_evaluation(elsewhere: bool) -> None:
    plain, again = unet(), unet()
    for network in (plain, again):
        ByLevel(network.middle_block[1].transformer_blocks[0].attn1.to_q)  # type: ignore[index, union-attr]
    assert recompute(again.recompute_blocks()) == 9
    for by in (0.5, 2.0):
        want, got = gradients(plain, by), gradients(again, by, elsewhere=elsewhere)
        assert want and len(want) == len(got)
        assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


@pytest.mark.parametrize("recomputed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_compiled_network_without_hooks_asks_for_nothing(recomputed: bool) -> None:
    network = unet(attention=MIDDLE, levels=1)
    if recomputed:
        recompute(network.recompute_blocks())
        network.train()
    torch._dynamo.reset()
    x, t, cond = given()
    with during(Evaluation(cond, t.float(), t, None, (8, 6))):
        found = torch._dynamo.explain(network)(x, t.float(), cond)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def test_a_compiled_network_with_hooks_does_as_it_is() -> None:
    network, compiled = unet(attention=MIDDLE, levels=1), unet(attention=MIDDLE, levels=1)
    hooks = [ByLevel(n.middle_block[1].transformer_blocks[0].attn1.to_q) for n in (network, compiled)]  # type: ignore[index, union-attr]
    torch._dynamo.reset()
    compiled.compile(backend="eager")
    x, t, cond = given()
    with torch.no_grad():
        for by in (1.0, 2.0):
            given_options = cond._replace(options={"by": by})
            want, got = (model_of(n)(x, t, given_options).x0 for n in (network, compiled))
            torch.testing.assert_close(want, got)
    assert hooks[1].seen == hooks[0].seen == [(8, 6)] * 2


@pytest.mark.parametrize("recomputed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_changed_weight_of_a_compiled_block_finds_the_evaluation(recomputed: bool) -> None:
    found: list[tuple[list[Tensor], list[Any]]] = []
    for compiled in (False, True):
        network, seen = unet(attention=MIDDLE, levels=1), list[Any]()

        def change(weight: Tensor, seen: list[Any] = seen) -> Tensor:
            seen.append((now := evaluation()) and now.grid)
            return weight * now.cond.options["by"] if now else weight

        change_weight(network.middle_block[1].transformer_blocks[0].attn1.to_q, change)  # type: ignore[index, union-attr, arg-type]
        if recomputed:
            recompute(network.recompute_blocks())
        torch._dynamo.reset()
        if compiled:
            network.compile(backend="eager")
        found.append((gradients(network, 0.5), seen))
    (want, grids), (got, others) = found
    assert set(grids) == set(others) == {(8, 6)}
    torch.testing.assert_close(want, got)


# ------------------------------------------------------------------------------------------------------ a sampler's run


class Both(Guidance):
    def __init__(self, second: Model | None = None) -> None:
        self.second = second
        self.runs: list[SamplingRun | None] = []

    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: Any) -> Estimate:
        self.runs.append(conditions.run)
        null, cond = predict(x, t, [conditions.null, conditions.cond])
        if self.second is not None:
            weak = conditions.again(lambda _: make_predict(self.second), key=self)  # type: ignore[arg-type]
            cond = weak(x, t, [conditions.cond])[0]
        return Estimate(null.x0 + 2 * (cond.x0 - null.x0))


class Told(Adapter):
    """An adapter that counts; it may fail."""

    def __init__(self, log: list[str], name: str, fails: Sequence[str] = ()) -> None:
        self.log, self.name, self.fails = log, name, fails

    def attach(self, model: Any) -> None:
        pass

    def detach(self) -> None:
        pass

    def begin(self, run: SamplingRun) -> None:
        self._tell("begin")

    def end(self, run: SamplingRun) -> None:
        self._tell("end")

    def _tell(self, what: str) -> None:
        self.log.append(f"{what} {self.name}")
        if what in self.fails:
            raise RuntimeError(f"{what} {self.name}")


def conditions() -> Conditions:
    cond = given()[2]
    return Conditions({"text": cond}, {"text": cond.map(torch.zeros_like)})


def test_a_run_counts_steps_and_evaluations() -> None:
    model, guidance = model_of(unet()), Both()
    seen, told = Seen(model.denoiser.out[2]), []  # type: ignore[attr-defined]
    options = LatentOptions(on_step=lambda i, t, x, x0: told.append((i, run.step)))  # type: ignore[union-attr]
    x, steps = given()[0], []
    with torch.no_grad(), guided_run(model, guidance, conditions(), TIMES, options) as (denoise, on_step):
        for i, calls in enumerate((2, 1)):
            for _ in range(calls):
                denoise(x, TIMES[i].expand(2))
                run = guidance.runs[-1]
                assert run is not None and run.times is TIMES and run.steps == 2
                steps.append((run.step, run.evaluation))
            on_step(i, TIMES[i + 1], x, x)
    assert steps == [(0, 1), (0, 2), (1, 3)], "two evaluations of the first step, as a second-order sampler has"
    assert told == [(0, 0), (1, 1)] and run is not None and run.step == 2
    assert [one.run for one in seen.found if one is not None] == [run] * 3
    assert all(one is not None and one.cond.rows() == 4 for one in seen.found), "both branches in one call"


def test_a_second_model_shares_the_run_and_its_adapters_are_told() -> None:
    log: list[str] = []
    second = model_of(unet(), inner=Told(log, "inner"))
    model = model_of(unet(), outer=Told(log, "outer"))
    seen, guidance = Seen(second.denoiser.out[2]), Both(second)  # type: ignore[attr-defined]
    with torch.no_grad(), guided_run(model, guidance, conditions(), TIMES) as (denoise, _):
        assert log == ["begin outer"]
        for _ in range(2):
            denoise(given()[0], TIMES[0].expand(2))
        log.append("over")
    assert [one.run for one in seen.found if one is not None] == guidance.runs and guidance.runs[0] is not None
    assert log == ["begin outer", "begin inner", "over", "end inner", "end outer"]


def test_every_adapter_that_began_is_told_of_the_end() -> None:
    log: list[str] = []
    model = model_of(unet(), a=Told(log, "a"), b=Told(log, "b", ["end"]), c=Told(log, "c"))
    with pytest.raises(RuntimeError, match="end b"), guided_run(model, Both(), conditions(), TIMES):
        pass
    assert log == ["begin a", "begin b", "begin c", "end c", "end b", "end a"]
    log.clear()
    model = model_of(unet(), a=Told(log, "a"), b=Told(log, "b", ["begin"]), c=Told(log, "c"))
    with pytest.raises(RuntimeError, match="begin b"), guided_run(model, Both(), conditions(), TIMES):
        pass
    assert log == ["begin a", "begin b", "end a"], "one that did not begin does not end"
    log.clear()
    with pytest.raises(KeyboardInterrupt), guided_run(model_of(unet(), a=Told(log, "a")), Both(), conditions(), TIMES):
        raise KeyboardInterrupt
    assert log == ["begin a", "end a"]


def test_state_is_one_object_an_owner_and_ends_with_the_run() -> None:
    one, other = object(), object()
    ended: list[Any] = []
    with SamplingRun(TIMES) as run:
        run.at_end(lambda run: ended.append(run.state(one, list)))
        mine = run.state(one, list)
        mine.append(1)
        assert run.state(one, list) is mine and run.state(other, list) == []
        assert SamplingRun(TIMES).state(one, list) == []
    assert ended == [[1]], "the state is there until all have been told"
    assert run.state(one, list) == []


def test_a_call_around_a_module_comes_and_goes() -> None:
    layer = nn.Linear(2, 2)
    x, calls = torch.ones(1, 2), []
    plain = layer(x)

    def twice(forward: Any, value: Tensor) -> Tensor:
        calls.append("outer")
        return 2 * forward(value)

    inner, outer = surround(layer, lambda forward, value: forward(value) + 1), surround(layer, twice)
    assert torch.equal(layer(x), 2 * (plain + 1)) and calls == ["outer"]
    inner.remove()
    assert torch.equal(layer(x), 2 * plain)
    outer.remove()
    outer.remove()
    assert torch.equal(layer(x), plain) and list(layer.state_dict()) == ["weight", "bias"]
