"""Losses and gradients that are not finite: named, stopped at or left out, with nothing changed by a left-out step."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import TINY, go, under_zero, weights

from ldm_core.catalog import Catalog
from ldm_core.config.overrides import apply_overrides
from ldm_core.contracts.streams import mix_seed
from ldm_core.errors import TrainingError
from ldm_core.model.build import make_first_stage, make_model, make_objective, sampling_site
from ldm_core.recipe.resolve import resolve
from ldm_core.training.bad_steps import spoiled
from ldm_core.training.checkpoints.snapshot import part_tensors
from ldm_core.training.denoiser.task import DenoiserTask
from ldm_core.training.engine import world
from ldm_core.training.feed.loader import MicroBatch
from ldm_core.training.feed.order import Place

STAGES = ("first_stage", "latents", "denoiser")


def poison(monkeypatch: pytest.MonkeyPatch, seeds: Sequence[int], value: float = torch.nan) -> None:
    """One pixel of the latents of the examples with these seeds is not a number."""
    healthy: Callable[..., Tensor] = DenoiserTask.latents

    def latents(self: DenoiserTask, batch: Any, own: Sequence[int]) -> Tensor:
        x0 = healthy(self, batch, own).clone()
        for i, seed in enumerate(own):
            if seed in seeds:
                x0[i, 0, 0, 0] = value
        return x0

    monkeypatch.setattr(DenoiserTask, "latents", latents)


def seed_of(epoch: int, index: int) -> int:
    return mix_seed(0, "latents", epoch, index)


def rows(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["stage"] == "denoiser"]


def test_spoiled_leaves_finite_losses_alone_and_spoils_every_gradient_of_others() -> None:
    w = torch.ones(3, requires_grad=True)
    (spoiled((w * 2.0).sum())).backward()
    assert torch.equal(w.grad, torch.full((3,), 2.0))  # type: ignore[arg-type]
    w.grad = None
    spoiled((w * 2.0).sum() + torch.inf).backward()  # its own gradient would be finite
    assert w.grad is not None and bool(torch.as_tensor(w.grad).isnan().all())


def test_a_run_stops_at_the_first_bad_example_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no step near it is measured: losses wait for the next measured one."""
    poison(monkeypatch, [seed_of(0, 5)])
    said = r"denoiser: the loss is nan at step \d for example 5 of epoch 0; the last checkpoint stays.*bad_steps=skip"
    with pytest.raises(TrainingError, match=said) as first:
        go(tmp_path / "a", "trainer.log_every=1", stages=STAGES)
    with pytest.raises(TrainingError) as second:
        go(tmp_path / "b", "trainer.log_every=100", stages=STAGES)
    assert str(first.value) == str(second.value)
    assert not (tmp_path / "a" / "model.safetensors").exists()


@pytest.mark.parametrize("zero", [0, 2])
def test_a_run_leaves_bad_steps_out_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero: int) -> None:
    poison(monkeypatch, [seed_of(0, 5)])
    watch = go(tmp_path, "trainer.bad_steps=skip", f"trainer.zero={zero}", stages=STAGES)
    assert all(bool(v.isfinite().all()) for v in weights(tmp_path).values())
    told = [m for m in watch.messages if "left out" in m]
    assert len(told) == 1 and "the loss is nan at step" in told[0] and "example 5 of epoch 0" in told[0]
    found = rows(tmp_path)
    assert len(found) == 8
    missing = [row["step"] for row in found if "loss" not in row]
    assert len(missing) == 1 and f"at step {missing[0]} " in told[0]
    assert [row.get("bad_steps", 0) for row in found] == [int(row["step"] >= missing[0]) for row in found]
    (manifest,) = (tmp_path / "checkpoints" / "denoiser").glob("*/manifest.json")
    told_steps = json.loads(manifest.read_text())
    assert told_steps["part_steps"] == {"model": 7} and told_steps["ema_updates"] == 7


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, [seed_of(epoch, i) for epoch in range(3) for i in range(24)])
    said = r"which is all 4 examples.*and the 2 steps before it were left out already \(trainer\.max_bad_steps\)"
    with pytest.raises(TrainingError, match=said):
        go(tmp_path, "trainer.bad_steps=skip", "trainer.max_bad_steps=2", stages=STAGES)


def test_weights_that_explode_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ for .* all 4 examples"):
        go(tmp_path, "trainer.lr=100", "trainer.weight_decay=1e4", "trainer.clip=0.0", stages=STAGES)


# ------------------------------------------------------------------------------------------------ a step by hand


def task_of(*overrides: str) -> tuple[DenoiserTask, list[str]]:
    plain = copy.deepcopy(TINY)
    apply_overrides(plain, list(overrides), ["first_stage", "denoiser", "dataset", "conditioners"])
    catalog = Catalog.discover()
    recipe = resolve(plain, catalog)
    stage = make_first_stage(recipe, catalog)
    said: list[str] = []
    task = DenoiserTask(
        make_model(recipe, catalog, stage),
        make_objective(recipe, catalog, sampling_site(recipe, stage)),
        stage,
        recipe,
        world.start(),
        name_of=lambda place: f"example {place.index}",
        say=lambda text, level: said.append(text),
    )
    return task, said


def micros(step: int, parts: int = 1, value: float = 0.0) -> list[MicroBatch]:
    """Four images of noise, in `parts` micro-batches; `value` added to one pixel of the last."""
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step)).clamp(-1, 1)
    images[-1, 0, 0, 0] += value
    places = [Place(0, 4 * step + i, False) for i in range(4)]
    each = 4 // parts
    return [MicroBatch({"image": images[i : i + each]}, tuple(places[i : i + each])) for i in range(0, 4, each)]


def everything(task: DenoiserTask) -> dict[str, Tensor]:
    assert task.ema is not None
    state = {k: v.clone() for k, v in part_tensors(task.parts[0])}
    return {**state, **{f"ema/{k}": v.clone() for k, v in task.ema.tensors().items()}}


@pytest.mark.parametrize(("zero", "accumulate"), [(0, 2), (1, 1), (2, 2), (3, 1)])
def test_a_left_out_step_leaves_no_trace(zero: int, accumulate: int) -> None:
    """Weights, moments and averages, to the bit; and the next step is what it would have been without it."""
    overrides = [*under_zero(zero), f"trainer.accumulate={accumulate}", "trainer.bad_steps=skip",
                 "trainer.ema_power=[0.1]"]  # fmt: skip
    task, said = task_of(*overrides)
    task.step(0, micros(0, accumulate), measure=True)
    before = everything(task)
    logs = task.step(1, micros(1, accumulate, torch.nan), measure=True)
    after = everything(task)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert logs == {"bad_steps": 1} and task.part_steps == {"model": 1}
    assert task.ema is not None and task.ema.updates == 1
    assert said == ["denoiser: the loss is nan at step 2 for example 7; the step is left out (1 so far)"]
    task.step(2, micros(2, accumulate), measure=True)

    other, _ = task_of(*overrides)
    other.step(0, micros(0, accumulate), measure=True)
    other.step(2, micros(2, accumulate), measure=True)
    mine, theirs = everything(task), everything(other)
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    kept = task.state()
    assert kept["bad_steps"].tolist() == [1, 0]  # in all, in a row
    other.load_state(kept)
    assert (other.guard.bad, other.guard.in_a_row) == (1, 0)


def test_lost_weights_are_not_kept() -> None:
    """Under bad_steps=stop no step is looked at between measured ones, but none of them becomes a checkpoint."""
    task, _ = task_of()
    task.step(0, micros(0), measure=False)
    assert task.state()["bad_steps"].tolist() == [0, 0]
    parameter = next(p for p in task.parts[0].names if p.requires_grad)
    handle = parameter.register_hook(lambda grad: grad * torch.nan)
    task.step(1, micros(1), measure=False)
    handle.remove()
    with pytest.raises(TrainingError, match="weights are not finite"):
        task.state()
    with pytest.raises(TrainingError, match="the loss is nan at step 3 for example 8, example 9"):
        task.step(2, micros(2), measure=True)


def test_gradients_alone_are_a_reason_too() -> None:
    """A finite loss whose gradient is not: the largest loss of the step is named."""
    task, said = task_of("trainer.bad_steps=skip")
    parameter = next(p for p in task.parts[0].names if p.requires_grad)
    handle = parameter.register_hook(lambda grad: grad * torch.inf)
    before = everything(task)
    logs = task.step(0, micros(0), measure=False)
    handle.remove()
    assert logs == {}
    assert len(said) == 1 and "the gradients are not finite at step 1, though the losses are (the largest: " in said[0]
    after = everything(task)
    assert all(torch.equal(before[k], after[k]) for k in before)
