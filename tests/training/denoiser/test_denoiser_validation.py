"""Validation by noise level, averages under ZeRO, and that neither leaves a trace in the training."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_guards import everything, micros, task_of
from torch import Tensor
from training_runs import Watch, go, under_zero, weights

from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.errors import Interrupted
from ldm_core.nn.torchvision_operators import importable
from ldm_core.recipe import artifacts
from ldm_core.training.averages.ema import EMA, whole_state
from ldm_core.training.denoiser.task import DenoiserTask
from ldm_core.training.denoiser.validation import BINS, HeldOutErrors
from ldm_core.training.engine import world

STAGES = ("first_stage", "latents", "denoiser")


class Pictures:
    """Images of noise, by index."""

    keys = {"image": "image"}  # noqa: RUF012

    def __init__(self, count: int) -> None:
        generator = np.random.default_rng(0)
        self.images = generator.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index]}


def test_a_silent_networks_errors_are_those_of_its_targets() -> None:
    """A fresh U-Net answers 0: its error is the mean square of v, computed here from the schedule's table alone."""
    task, _ = task_of()
    pictures, count = Pictures(37), 20  # a block of 16 and one of 4
    found = HeldOutErrors(task, pictures, (), count, world.start())(0)
    module: Any = task.parts[0].module
    bar = module.model.schedule.alphas_cumprod
    table = torch.zeros(count, BINS, dtype=torch.float64)
    for i in range(count):
        x0 = torch.from_numpy(pictures.images[i * 37 // count]).double() / 127.5 - 1
        for b in range(BINS):
            streams = Streams([mix_seed("validation", i, b)])
            u = (b + float(streams.uniform((1,)))) / BINS
            alpha2 = bar[int(u * 1000)]
            eps = streams.normal((1, 3, 16, 16))[0].double()
            table[i, b] = (alpha2.sqrt() * eps - (1 - alpha2).sqrt() * x0).square().mean()
    for b in range(BINS):
        assert found[f"val_loss_t{b}"] == pytest.approx(float(table[:, b].mean()), rel=1e-5)
    assert found["val_loss"] == pytest.approx(float(table.mean()), rel=1e-5)


def test_measuring_again_gives_the_same_and_more_training_another() -> None:
    task, _ = task_of("trainer.ema=0.5")
    measure = HeldOutErrors(task, Pictures(8), (), 8, world.start())
    first = measure(0)
    assert measure(0) == first
    for step in range(3):
        task.step(step, micros(step), measure=False)
    assert measure(3)["val_loss"] != first["val_loss"]


@pytest.mark.parametrize("zero", [0, pytest.param(2, marks=pytest.mark.slow), 3])
def test_averages_are_swapped_in_and_out_to_the_bit(zero: int) -> None:
    task, _ = task_of(*under_zero(zero), "trainer.ema=0.7")
    for step in range(2):
        task.step(step, micros(step), measure=False)
    module: Any = task.parts[0].module
    before, averages = everything(task), task.weights()
    with task.averaged() as model:
        inside = {k: v.clone().cpu() for k, v in whole_state(model).items()}
        assert not module.training
    assert module.training
    assert inside.keys() == averages.keys() and all(torch.equal(inside[k], averages[k]) for k in inside)
    own = {k.removeprefix("model.") for k in before}
    assert own  # the comparison is not empty
    after = everything(task)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert any(not torch.equal(averages[k], v.cpu()) for k, v in whole_state(module.model).items())
    task.step(2, micros(2), measure=False)

    plain, _ = task_of(*under_zero(zero), "trainer.ema=0.7")
    for step in range(3):
        plain.step(step, micros(step), measure=False)
    mine, theirs = everything(task), everything(plain)
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)


@pytest.mark.parametrize(("one", "other"), [(0, 3), (3, 0), (2, 3)])
def test_averages_cross_zero_stages(one: int, other: int) -> None:
    changes = ["trainer.ema=0.7", "trainer.ema_power=[0.05,0.1]"]
    source, _ = task_of(*under_zero(one), *changes)
    target, _ = task_of(*under_zero(other), *changes)
    for step in range(2):
        source.step(step, micros(step), measure=False)
    assert source.ema is not None and target.ema is not None
    kept: dict[str, Tensor] = {k: v.clone() for k, v in source.ema.tensors().items()}
    assert {k.partition("model.")[0] for k in kept} == {"", "power/0.05/", "power/0.1/"}
    target.ema.load(kept, source.ema.updates)
    assert target.ema.updates == 2
    assert all(torch.equal(kept[k].cpu(), v.cpu()) for k, v in target.ema.tensors().items())


def test_the_first_average_is_that_of_diffusers() -> None:
    """The same warm-up as their EMAModel with its inverse-gamma form off, over the same weights."""
    pytest.importorskip("diffusers")
    try:
        with importable():
            from diffusers.training_utils import EMAModel
    except ImportError as error:
        pytest.skip(f"diffusers' training code does not import: {error}")
    module = torch.nn.Linear(4, 1, bias=False)
    mine = EMA(module, 0.5)
    theirs = EMAModel(module.parameters(), decay=0.5, use_ema_warmup=False)
    theirs.step(module.parameters())  # its first step has decay 0, where ours is (1 + 1) / (10 + 1)
    mine.load({"weight": module.weight.detach()}, 0)
    for step in range(1, 30):
        with torch.no_grad():
            module.weight.copy_(torch.randn(1, 4, generator=torch.Generator().manual_seed(step)))
        mine.update()
        theirs.step(module.parameters())
        torch.testing.assert_close(mine.shadow["weight"], theirs.shadow_params[0], rtol=1e-6, atol=1e-7)


def test_a_run_validates_and_trains_the_same(tmp_path: Path) -> None:
    go(tmp_path / "a", stages=STAGES)
    watch = go(tmp_path / "b", "trainer.validate_every=3", "trainer.validate_images=5", stages=STAGES)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any("validated on 5 held-out images with averaged weights" in m for m in watch.messages)
    steps = {}
    for name in "ab":
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        found = [row for row in lines if row["stage"] == "denoiser_validation"]
        steps[name] = [row["step"] for row in found]
        for row in found:
            assert row["val_loss"] == pytest.approx(np.mean([row[f"val_loss_t{i}"] for i in range(10)]))
    assert steps == {"a": [8], "b": [3, 6, 8]}  # at the end in any case


def test_a_validation_is_cut_off_where_the_run_is_asked_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in its first block: no figures, the averages out again, and the run goes on to the same end."""
    wanted = ("trainer.validate_every=4", "trainer.validate_images=32")
    blocks: list[int] = []
    plain = DenoiserTask.errors

    def errors(self: Any, x0: Tensor, *rest: Any) -> Tensor:
        if not blocks:
            os.kill(os.getpid(), signal.SIGTERM)
        blocks.append(len(x0))
        return plain(self, x0, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(DenoiserTask, "errors", errors)
        watch = Watch()
        with pytest.raises(Interrupted, match="step 5 of 8"):
            go(tmp_path / "b", *wanted, "dataset.val_scenes=32", stages=STAGES, watch=watch)
    assert blocks == [16] * BINS, "the block under way ends, the second never begins"
    assert "denoiser: the validation of step 4 was cut off, as the run was asked to stop" in watch.messages
    for name in "ab":
        go(tmp_path / name, *wanted, "dataset.val_scenes=32", stages=STAGES)
    assert validated(tmp_path / "a") == [4, 8] and validated(tmp_path / "b") == [8]
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_validation_that_no_step_waits_for_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = HeldOutErrors.__call__

    def asked(self: Any, step: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, step)

    monkeypatch.setattr(HeldOutErrors, "__call__", asked)
    go(tmp_path, "trainer.validate_every=7", "trainer.validate_images=2", stages=STAGES)
    assert validated(tmp_path) == [7, 8]


def validated(out: Path) -> list[int]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in lines if row["stage"] == "denoiser_validation" and "val_loss" in row]


def test_a_file_says_averaged_only_of_averages(tmp_path: Path) -> None:
    """An objective's teacher takes the place of all that was trained, or of all but a trained conditioner."""

    def averaged(name: str, samples: bool, *changes: str, conditioners: Sequence[Any] = ()) -> Any:
        objective = {"use": "own_teacher", "samples": samples}
        short = ("trainer.steps=1", "trainer.validate_images=1", *changes)
        watch = go(tmp_path / name, *short, stages=STAGES, objective=objective, conditioners=list(conditioners))
        kept = "the weights as they are" if "trainer.ema=0.0" in changes else "averaged weights"
        assert any(message.endswith(f"with {kept}") for message in watch.messages), "the trained ones are validated"
        return artifacts.read_header(str(tmp_path / name / artifacts.MODEL_FILE), "model").extra["averaged"]

    assert averaged("own", False) is True and averaged("plain", False, "trainer.ema=0.0") is False
    assert averaged("given", True) is False
    assert averaged("partly", True, conditioners=[{"use": "class_label", "width": 8}]) is True


@pytest.mark.parametrize("every", [0, 3])
def test_a_line_says_that_the_last_validation_runs(tmp_path: Path, every: int) -> None:
    """No step follows it that would show that the run is alive; once, in the loop or after it."""
    watch = go(tmp_path, "trainer.steps=3", f"trainer.validate_every={every}", stages=STAGES)
    assert watch.messages.count("denoiser: last validation ...") == 1
