"""The loop around any task, with a task of four weights: what is called when, signals, limits, failing writes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm_core import storage
from ldm_core.errors import CheckpointError, Interrupted, StorageError, TrainingError
from ldm_core.recipe.settings import TrainerSettings
from ldm_core.training.averages.ema import EMA
from ldm_core.training.checkpoints import files
from ldm_core.training.engine import world
from ldm_core.training.engine.loss_scale import LossScale
from ldm_core.training.engine.part import Part
from ldm_core.training.folder.metrics import MetricsFile
from ldm_core.training.folder.stopping import Run, Stop
from ldm_core.training.loop import train

SETTINGS = TrainerSettings(steps=12, images_per_step=2, lr=0.1, log_every=5, checkpoint_every=4, ema=0.9)


class Square(nn.Module):
    """The squared distance of four weights from a target, noise and all: dropout draws from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 0.5]))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, target: float) -> Tensor:
        """One loss."""
        return (nn.functional.dropout(self.weight, 0.3) - target).square().mean()


class Toy:
    """A task; `trace` keeps what the loop asked of it."""

    stage = "toy"

    def __init__(self, here: world.World, settings: TrainerSettings, at_step: Any = None) -> None:
        self.module = Square()
        self.parts: Sequence[Part] = [Part("model", self.module, settings, here, "trainer")]
        self.part_steps = {"model": 0}
        self.parts[0].loss_scale = LossScale(initial=8.0, window=3)  # fp16's, which works in any precision
        self.ema: EMA | None = EMA(self.module, settings.ema)
        self.trace: list[Any] = []
        self.count = torch.zeros(2, dtype=torch.int64)
        self._at_step = at_step

    def prepare(self, start: int) -> None:
        self.trace.append(("prepare", start))

    def step(self, step: int, micros: Sequence[Any], *, measure: bool) -> Mapping[str, Any]:
        part = self.parts[0]
        loss = part.engine(0.1 * step)
        part.backward(loss)
        part.step(measure=measure)
        self.part_steps["model"] += 1
        self.count += torch.tensor([1, step])
        self.trace.append(("step", step, measure))
        if self._at_step is not None:
            self._at_step(step)
        return {"loss": loss.detach() if measure else Unread(float(loss.detach()), self.trace)}

    def validate(self, step: int) -> Mapping[str, float]:
        self.trace.append(("validate", step))
        time.sleep(0.3)
        return {"psnr": step + 0.5}

    def preview(self, step: int) -> None:
        self.trace.append(("preview", step))

    def state(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.count = state["count"]

    def values(self) -> dict[str, Tensor]:
        assert self.ema is not None
        optimizer = self.parts[0].engine.optimizer.state[self.module.weight]
        scale = self.parts[0].loss_scale
        assert scale is not None
        return {
            "scale": scale.state(),
            "weight": self.module.weight.detach().clone(),
            "ema": self.ema.shadow["weight"].clone(),
            "count": self.count,
            **{k: v.clone() for k, v in optimizer.items()},
        }


class Unread:
    """A number on a device: to read it is to wait for the device, which few steps should do."""

    def __init__(self, value: float, trace: list[Any]) -> None:
        self._value, self._trace = value, trace

    def __float__(self) -> float:
        self._trace.append(("read",))
        return self._value


class Hook:
    """Collects what observers would be told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, dict[str, float]]] = []
        self.said: list[str] = []
        self.ends: list[str] = []

    def ldm_stage_start(self, **_: Any) -> None: ...

    def ldm_step(self, stage: str, step: int, logs: dict[str, float]) -> None:
        self.steps.append((stage, step, logs))

    def ldm_message(self, text: str, level: str) -> None:
        self.said.append(text)

    def ldm_stage_end(self, stage: str, status: str) -> None:
        self.ends.append(status)


class Loader:
    """Batches of nothing."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def steps(self, start: int) -> Any:
        yield from [()] * (self._steps - start)


@attrs.frozen
class Done:
    task: Toy
    hook: Hook
    run: Run


def go(out: Any, at_step: Any = None, identity: str = "me", lock: Any = None, **changes: Any) -> Done:
    """Train the toy in `out`; on an error the same object is on the error as ``done``."""
    settings = attrs.evolve(SETTINGS, **changes)
    here, hook = world.start(), Hook()
    task = Toy(here, settings, at_step)
    metrics = MetricsFile(storage.join(str(out), "metrics.jsonl"))
    run = Run(str(out), here, hook, Stop(), metrics, lock)
    done = Done(task, hook, run)
    try:
        with run.stop:
            train(task, Loader(settings.steps), settings, run,  # type: ignore[arg-type]
                  folder=storage.join(str(out), "checkpoints"), identity=identity)  # fmt: skip
    except Exception as error:
        error.done = done  # type: ignore[attr-defined]
        raise
    finally:
        metrics.flush()
    return done


def same(a: Toy, b: Toy) -> bool:
    x, y = a.values(), b.values()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def steps(out: Any) -> list[int | None]:
    return [files.step_of(n) for n in files.listed(storage.join(str(out), "checkpoints"))[0]]


def test_what_is_called_when(tmp_path: Path) -> None:
    done = go(tmp_path, validate_every=6, preview_every=4)
    trace = done.task.trace
    assert trace[0] == ("prepare", 0)
    assert [t[1] for t in trace if t[0] == "step"] == list(range(12))
    assert [t[1] + 1 for t in trace if t[0] == "step" and t[2]] == [1, 4, 5, 8, 10, 12]
    assert ("read",) not in trace  # the others wait for nothing
    assert [t for t in trace if t[0] in ("validate", "preview")] == [
        ("preview", 4), ("validate", 6), ("preview", 8), ("validate", 12), ("preview", 12)]  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"], r["psnr"]) for r in rows if "psnr" in r] == [
        ("toy_validation", 6, 6.5), ("toy_validation", 12, 12.5)]  # fmt: skip
    assert ("toy_validation", 6, {"psnr": 6.5}) in done.hook.steps
    last = [r for r in rows if r["stage"] == "toy"][-1]
    assert last["step"] == 12 and last["lr"] == 0.1 and 10 < last["peak_memory_mib"] < 1e6
    after = next(r for r in rows if r["stage"] == "toy" and r["step"] == 8)
    assert after["images_per_second"] > 2 * 3 / 0.3  # what was measured beside training (0.3 s) is no training time


def test_off_means_never(tmp_path: Path) -> None:
    trace = go(tmp_path).task.trace
    assert not [t for t in trace if t[0] in ("validate", "preview")]


@pytest.mark.parametrize("place", ["local", "memory"])
@pytest.mark.parametrize("background", [False, True])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, place: str, background: bool) -> None:
    out = str(tmp_path / "b") if place == "local" else f"memory://loop-{tmp_path.name}"
    whole = go(tmp_path / "a", keep_checkpoints=1)
    assert steps(tmp_path / "a") == [12]
    with pytest.raises(Interrupted, match="toy: stopped at step 7 of 12 with a checkpoint; the same command goes on"):
        go(out, lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 6 else None, background=background)
    assert steps(out) == [7, 4]
    torch.rand(3)  # what others draw does not matter
    again = go(out, background=background)
    assert again.task.trace[:2] == [("prepare", 7), ("step", 7, True)]
    assert same(whole.task, again.task) and again.task.part_steps == {"model": 12}
    assert again.task.values()["scale"].tolist() == [8 * 2.0**4, 0.0]  # doubled after every third of 12 steps
    assert again.hook.said == ["toy: goes on from step 7 of 12, by its checkpoint"]


def test_sigusr1_checkpoints_and_goes_on(tmp_path: Path) -> None:
    done = go(tmp_path, lambda step: os.kill(os.getpid(), signal.SIGUSR1) if step == 4 else None, keep_checkpoints=9)
    assert steps(tmp_path) == [12, 8, 5, 4]
    assert done.hook.said == ["toy: checkpoint of step 5, as asked for"]
    assert done.run.stop.asked == ""


def test_a_time_limit_checkpoints_and_leaves(tmp_path: Path) -> None:
    """Each start gets on by a step at least, so that a run of many short jobs ends."""
    whole = go(tmp_path / "a")
    for step in range(1, 4):
        with pytest.raises(
            Interrupted, match=f"stopped after its 1e-06 minutes at step {step} of 12 with a checkpoint"
        ):
            go(tmp_path / "b", time_limit=1e-6)
    assert same(whole.task, go(tmp_path / "b", time_limit=5).task)


def test_a_run_whose_folder_was_taken_writes_no_more(tmp_path: Path) -> None:
    lock = SimpleNamespace(lost=False)

    def lose(step: int) -> None:
        lock.lost = step >= 5

    with pytest.raises(TrainingError, match="toy: stopped at step 6, because another run has taken over"):
        go(tmp_path, lose, lock=lock)
    assert steps(tmp_path) == [4]


def _failing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    true = storage.atomic_write

    def write(url: str, data: Any) -> None:
        if any(name in str(url) for name in names):
            raise StorageError(f"cannot write {storage.base_name(str(url))}: the disk is full")
        true(url, data)

    monkeypatch.setattr(storage, "atomic_write", write)


@pytest.mark.parametrize("background", [False, True])
def test_a_write_that_fails_is_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    whole = go(tmp_path / "a")
    _failing(monkeypatch, "step-00000008")
    done = go(tmp_path / "b", background=background)
    (said,) = done.hook.said
    assert said.startswith("toy: the checkpoint of step 8 could not be written: cannot write state-00000.safetensors: ")
    assert said.endswith("the checkpoint of step 4 stays and training goes on")
    assert steps(tmp_path / "b") == [12, 4] and same(whole.task, done.task)


def test_the_last_one_must_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _failing(patch, "step-00000012")
        with pytest.raises(
            CheckpointError, match=r"the last checkpoint, of step 12, could not be written.*from step 8"
        ):
            go(tmp_path)
        _failing(patch, "step-00000010")
        with pytest.raises(CheckpointError, match=r"of step 10, could not be written"):
            go(tmp_path, lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 9 else None)
    assert go(tmp_path).task.trace[0] == ("prepare", 8)


def test_a_slow_write_does_not_hold_training_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write of step 4 hangs until step 7 is reached; step 8 then waits for it."""
    reached = threading.Event()
    true = storage.atomic_write

    def slow(url: str, data: Any) -> None:
        if "step-00000004" in str(url):
            assert reached.wait(30), "training waited for the write"
        true(url, data)

    monkeypatch.setattr(storage, "atomic_write", slow)
    done = go(tmp_path, lambda step: reached.set() if step == 6 else None, keep_checkpoints=5)
    assert steps(tmp_path) == [12, 8, 4]
    early = _written(tmp_path, 4)
    twin = go(tmp_path / "twin", steps=12, background=False, keep_checkpoints=5)
    inline = _written(tmp_path / "twin", 4)
    assert early.keys() == inline.keys() and all(torch.equal(early[k], inline[k]) for k in early)  # as of step 4
    assert same(done.task, twin.task)


def _written(out: Path, step: int) -> dict[str, Tensor]:
    """The tensors of a run's checkpoint, read by the library."""
    (folder,) = (out / "checkpoints").glob(f"step-{step:08d}-*")
    return load_file(folder / "state-00000.safetensors")


def test_other_circumstances_are_told(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        go(tmp_path, time_limit=1e-6)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        goes_on, said = sorted(go(tmp_path).hook.said, key=len)
    finally:
        torch.set_num_threads(threads)
    assert goes_on == "toy: goes on from step 1 of 12, by its checkpoint"
    assert f"made otherwise (threads {threads} -> {threads + 1})" in said and "not bit for bit" in said


def test_damaged_ones_are_named_and_another_identity_refused(tmp_path: Path) -> None:
    go(tmp_path, keep_checkpoints=3)
    folders = sorted((tmp_path / "checkpoints").iterdir())
    for folder in folders[1:]:
        (folder / "manifest.json").write_text("{")
    done = go(tmp_path)
    assert done.task.trace[0] == ("prepare", 4)
    assert [f.name for f in reversed(folders[1:])] == [s.split("/")[-1].split(" ")[0] for s in done.hook.said[:-1]]
    assert done.hook.said[-1] == "toy: goes on from step 4 of 12, by its checkpoint"
    with pytest.raises(CheckpointError, match="another recipe or other data"):
        go(tmp_path, identity="you")
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "manifest.json").write_text("{")
    assert go(tmp_path).hook.said[-1] == "toy: no checkpoint is whole; training starts anew"
