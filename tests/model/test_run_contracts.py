"""Parts that break their contract in a run: named at the first batch, with the contract's line and the fix."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from assembled import BASE, CATALOG, STAGES, assembled
from forked import Command, forked
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor
from training_runs import go

from ldm_core.contracts import LossOutput, Tokens
from ldm_core.contracts.conditioning import Cond
from ldm_core.errors import ComponentError, ContractError, NotFiniteError
from ldm_core.model.build import make_first_stage, make_model, make_objective, sampling_site
from ldm_core.model.conformance.breaches import inside, named
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.training.denoiser.task import DiffusionLoss

NAN = float("nan")
MEAN = {"class_label": 1}


def _loss(recipe_changes: dict[str, Any] | None = None) -> DiffusionLoss:
    recipe = resolve({**BASE, "first_stage": STAGES["pixels"], **(recipe_changes or {})}, CATALOG)
    stage: Any = make_first_stage(recipe, CATALOG)
    objective = make_objective(recipe, CATALOG, sampling_site(recipe, stage))
    return DiffusionLoss(make_model(recipe, CATALOG, stage), objective, recipe).train()


def _train(loss: DiffusionLoss, rows: int = 2) -> Any:
    batch = {"class_label": torch.arange(rows) % 3}
    return loss(torch.randn(rows, 3, 16, 16), batch, list(range(rows)))


def told_as(error: ContractError, *said: str) -> None:
    text = str(error)
    first, *more = text.splitlines()
    assert "breaks its contract" in first and "expected:" in first and more and "to fix" in more[-1]
    assert "ldm_core.testing." in more[-1] and all(len(line) < 1_000 for line in (first, *more))
    for each in said:
        assert each in text, text


# ------------------------------------------------------------------------------------------------------ conditioners

TOKENS = "crossattn"
BUNDLES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "wrong width": (lambda c: c._replace(crossattn=c.crossattn[..., :8]), "(B, L, 16), as its spec declares"),
    "no tokens": (lambda c: Cond(), "wrote no crossattn"),
    "a vector that is not declared": (lambda c: c._replace(vector=torch.zeros(2, 4)), "its spec declares no vector"),
    "one axis too few": (lambda c: c._replace(crossattn=c.crossattn[:, 0]), "wrote crossattn float32 (2, 16)"),
    "a row too many": (lambda c: c.map(lambda v: torch.cat([v, v[:1]])), "2 rows, one an example"),
    "a batch mean": (lambda c: c.map(lambda v: v.mean(0, keepdim=True)), "2 rows, one an example"),
    "double precision": (lambda c: c.map(Tensor.double), "as float64 (2, 1, 16)"),
    "whole numbers": (lambda c: c.map(lambda v: v.long()), "as int64"),
    "another extra": (lambda c: c._replace(extras={"pooled": torch.zeros(2, 3)}), "wrote extras ['pooled']"),
    "another residual": (lambda c: c._replace(residuals={"mid": torch.zeros(2, 3)}), "wrote residuals ['mid']"),
    "a mask of numbers": (lambda c: c._replace(crossattn_mask=torch.ones(2, 1)), "expected: bool (2, 1)"),
    "a mask of another shape": (
        lambda c: c._replace(crossattn_mask=torch.ones(2, 3, dtype=torch.bool)),
        "crossattn_mask bool (2, 3)",
    ),
    "a mask of nothing": (
        lambda c: c._replace(crossattn_mask=torch.zeros(2, 1, dtype=torch.bool)),
        "a row that attends to nothing",
    ),
    "undeclared tokens": (
        lambda c: c._replace(tokens={"more": Tokens(torch.zeros(2, 1, 4))}),
        "wrote tokens ['more']; expected: []",
    ),
    "tokens without their class": (
        lambda c: c._replace(tokens={"more": torch.zeros(2, 1, 4)}),
        "the tokens 'more' as Tensor; expected: Tokens(values, mask)",
    ),
    "a dict": (lambda c: {"crossattn": c.crossattn}, "returned dict; expected: a Cond"),
    "a tensor": (lambda c: c.crossattn, "returned Tensor; expected: a Cond"),
    "an array": (lambda c: c._replace(crossattn=np.zeros((2, 1, 16))), "wrote crossattn as ndarray"),
    "another device": (lambda c: c.map(lambda v: v.to("meta")), "wrote crossattn on meta"),
}


@pytest.mark.parametrize("fault", BUNDLES)
@pytest.mark.parametrize("where", ["training", "sampling"])
def test_a_bundle_is_held_to_its_spec(fault: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, said = BUNDLES[fault]
    loss = _loss() if where == "training" else None
    pipeline = None if loss is not None else assembled()
    model: Any = loss.model if loss is not None else pipeline.model  # type: ignore[union-attr]
    part = model.conditioners["class_label"]
    true = part.encode
    if fault in ("a mask of nothing", "another device") and where == "sampling":
        pytest.skip("the same check; once is enough")
    monkeypatch.setattr(part, "encode", lambda batch: change(true(batch)))
    with pytest.raises(ContractError) as told:
        _train(loss) if loss is not None else pipeline.sample(inputs=[MEAN, MEAN])  # type: ignore[union-attr]
    told_as(told.value, said, "conditioner 'class_label' (ldm-plugin-class-label", "Row i depends on example i alone")


NULLS: dict[str, tuple[Callable[[Cond], Any], str]] = {
    "another length": (lambda c: c.map(lambda v: torch.cat([v, v], 1)), "crossattn float32 (2, 2, 16)"),
    "one row": (lambda c: c.map(lambda v: v[:1]), "crossattn float32 (1, 1, 16)"),
    "nothing": (lambda c: Cond(), "wrote []; expected: ['crossattn']"),
    "a tensor": (lambda c: c.crossattn, "returned Tensor"),
    "other options": (lambda c: c._replace(options={"a": 1}), "other options"),
    "another device": (lambda c: c.map(lambda v: v.to("meta")), "on meta"),
}


@pytest.mark.parametrize("fault", NULLS)
def test_a_null_is_held_to_its_bundle(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, said = NULLS[fault]
    loss = _loss()
    part: Any = loss.model.conditioners["class_label"]
    true = part.null
    monkeypatch.setattr(part, "null", lambda like: change(true(like)))
    with pytest.raises(ContractError) as told:
        _train(loss)
    told_as(told.value, said, "breaks its contract: null", "same parts, shapes, dtype and device as `like`")


def test_a_key_that_was_not_declared_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = _loss()
    monkeypatch.setattr(loss.model.conditioners["class_label"], "encode", lambda batch: batch["colour"])
    with pytest.raises(ContractError) as told:
        _train(loss)
    told_as(told.value, "reads the key 'colour'", "class_label")


@pytest.mark.parametrize("where", ["training", "sampling"])
@pytest.mark.parametrize("kind", ["conditioner", "denoiser"])
def test_a_part_that_makes_nan_is_named(where: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, pipeline = _loss(), assembled(guidance="none")
    model: Any = loss.model if where == "training" else pipeline.model
    if kind == "conditioner":
        part = model.conditioners["class_label"]
        true = part.encode
        monkeypatch.setattr(part, "encode", lambda batch: true(batch).map(lambda v: v * NAN))
    else:
        net = type(model.denoiser).forward
        monkeypatch.setattr(type(model.denoiser), "forward", lambda self, *args: net(self, *args) * NAN)
    with pytest.raises(NotFiniteError, match="of which no row is finite") as told:
        _train(loss) if where == "training" else pipeline.sample(inputs=[MEAN, MEAN], seed=7)
    said = str(told.value)
    assert f"{kind} '" in said and "weights.describe" in said
    assert where == "training" or "seeds 7, 8: the latents came out not finite" in said


def test_a_bundle_of_broken_data_is_no_breach() -> None:
    """NaN that was in the example is the guard's to tell, with the example's name."""
    from ldm_core.model.conformance.bundle import hold_bundle

    loss = _loss()
    held = loss.model.contracts
    assert held is not None
    part, spec = held.parts["conditioners.class_label"], held._specs["class_label"]
    cond = Cond(crossattn=torch.full((2, 1, 16), NAN))
    cpu = torch.device("cpu")
    hold_bundle(part, cond, spec, {"x": torch.full((2, 4), NAN)}, grid=None, device=cpu)
    with pytest.raises(NotFiniteError):
        hold_bundle(part, cond, spec, {"x": torch.zeros(2, 4)}, grid=None, device=cpu)
    one = Cond(crossattn=torch.cat([torch.full((1, 1, 16), NAN), torch.zeros(1, 1, 16)]))
    hold_bundle(part, one, spec, {"x": torch.zeros(2, 4)}, grid=None, device=cpu)  # an example's own trouble


# ------------------------------------------------------------------------------------------------- networks and losses

OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "channels": (lambda y: y[:, :2], "(2, 2, 16, 16)"),
    "size": (lambda y: y[..., :8], "(2, 3, 16, 8)"),
    "rows": (lambda y: y.mean(0, keepdim=True), "(1, 3, 16, 16)"),
    "an axis": (lambda y: y.flatten(2), "(2, 3, 256)"),
    "a tuple": (lambda y: (y,), "made tuple"),
    "whole numbers": (lambda y: y.long(), "int64"),
}


@pytest.mark.parametrize("fault", OUTPUTS)
@pytest.mark.parametrize("where", ["training", "sampling"])
def test_a_denoisers_output_is_held_to_its_input(fault: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, said = OUTPUTS[fault]
    loss, pipeline = _loss(), assembled(guidance="none")
    model: Any = loss.model if where == "training" else pipeline.model
    true = type(model.denoiser).forward
    monkeypatch.setattr(type(model.denoiser), "forward", lambda self, *args: change(true(self, *args)))
    with pytest.raises(ContractError) as told:
        _train(loss) if where == "training" else pipeline.sample(inputs=[MEAN, MEAN])
    told_as(told.value, said, "denoiser 'unet' (ldm-core", "the first C channels are F")


def test_further_channels_of_a_denoiser_are_its_own() -> None:
    """A learned variance: nothing to say."""
    pipeline = assembled(guidance="none")
    true = type(pipeline.model.denoiser).forward  # type: ignore[misc]
    seen = []

    def wider(self: Any, *args: Any) -> Tensor:
        out = true(self, *args)
        seen.append(len(out))
        return torch.cat([out, out], 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipeline.model.denoiser), "forward", wider)
        assert len(pipeline.sample(inputs=MEAN, images=1)) == 1 and seen


LOSSES: dict[str, tuple[Callable[[LossOutput], Any], str]] = {
    "over the batch": (lambda out: out._replace(value=out.value.mean()), "made float32 ()"),
    "per value": (lambda out: out._replace(value=torch.zeros(2, 3, 16, 16)), "made float32 (2, 3, 16, 16)"),
    "one row": (lambda out: out._replace(value=out.value[:1]), "made float32 (1,)"),
    "a tensor": (lambda out: out.value.mean(), "returned Tensor"),
    "a number": (lambda out: 3.0, "returned float"),
    "whole numbers": (lambda out: out._replace(value=torch.zeros(2, dtype=torch.int64)), "made int64 (2,)"),
}


@pytest.mark.parametrize("fault", LOSSES)
def test_an_objective_gives_a_loss_an_example(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, said = LOSSES[fault]
    loss = _loss()
    true = loss.objective.loss
    monkeypatch.setattr(loss.objective, "loss", lambda *args, **more: change(true(*args, **more)))
    with pytest.raises(ContractError) as told:
        _train(loss)
    told_as(told.value, said, "objective 'simple'", "x0 (B, C, *s) -> a loss per example")


def test_what_is_right_passes_and_is_looked_at_once() -> None:
    loss = _loss()
    held = loss.model.contracts
    assert held is not None
    out = _train(loss)
    assert out.value.shape == (2,) and not held.is_open
    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("hold_bundles", "hold_nulls", "hold_network"):
            patch.setattr(type(held), name, lambda self, *args: calls.append(args))
        _train(loss)
    assert calls == []


def patched(pipeline: Pipeline, kind: str, method: str, change: Callable[[Any], Any]) -> None:
    parts = pipeline._parts(pipeline.recipe)
    true = getattr(parts, kind)

    class Other:
        def __getattr__(self, name: str) -> Any:
            return getattr(true, name)

    other: Any = Other()
    setattr(other, method, lambda *args, **more: change(getattr(true, method)(*args, **more)))
    assert pipeline._made is not None
    pipeline._made = pipeline._made[0], attrs.evolve(parts, **{kind: other})


# ------------------------------------------------------------------------------------- exceptions of a part's own code


def _notes(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("kind", ["conditioner", "denoiser", "objective", "sampler", "guidance", "first stage"])
def test_what_a_part_raises_keeps_its_traceback_and_names_the_part(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise TypeError("unsupported operand")

    loss, pipeline = _loss(), assembled("KL")
    if kind == "conditioner":
        monkeypatch.setattr(loss.model.conditioners["class_label"], "encode", fails)
    elif kind == "denoiser":
        monkeypatch.setattr(type(loss.model.denoiser), "forward", fails)
    elif kind == "objective":
        monkeypatch.setattr(loss.objective, "loss", fails)
    elif kind == "first stage":
        monkeypatch.setattr(pipeline.stage, "decode", fails)
    else:
        patched(pipeline, kind, "sample" if kind == "sampler" else "guide", fails)
    with pytest.raises(TypeError, match="unsupported operand") as told:
        _train(loss) if kind in ("conditioner", "denoiser", "objective") else pipeline.sample(inputs=MEAN, images=1)
    said = _notes(told.value)
    assert said.count("the fault is in") == 1 and f"of {kind} '" in said and "in fails" in said


def test_a_factory_that_fails_is_named() -> None:
    part = resolve(BASE | {"first_stage": "identity"}, CATALOG).sampler
    with pytest.raises(ZeroDivisionError) as told, inside(named(part, CATALOG), "the factory"):
        1 / 0  # noqa: B018
    assert "in the factory of sampler 'ddim' (ldm-plugin-ddim" in _notes(told.value)


def test_a_run_names_the_part_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_core.builtin.diffusion.objectives import SimpleObjective

    true = SimpleObjective.loss
    monkeypatch.setattr(
        SimpleObjective, "loss", lambda self, *args, **more: LossOutput(true(self, *args, **more).value.mean())
    )
    with pytest.raises(ContractError) as told:
        go(tmp_path, "trainer.steps=1", stages=("first_stage", "latents", "denoiser"))
    told_as(told.value, "objective 'simple' (ldm-core", "made float32 ()")


def test_one_process_has_no_rank_before_its_lines() -> None:
    code = "from ldm_core.training.engine import world; world.start(); raise TypeError('of a plugin')"
    (done,) = forked([Command(["-c", code])])
    assert "TypeError: of a plugin" in done.err and "rank0" not in done.err


def test_a_conditioner_that_draws_takes_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_plugin_class_label.config import ClassLabelConfig

    monkeypatch.setattr(ClassLabelConfig, "draws", True, raising=False)
    with pytest.raises(ComponentError, match=r"'class_label' says in its config that it draws.*takes no `streams`"):
        _loss()
