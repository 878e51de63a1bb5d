"""The loop that every task runs in: resume, steps, logs, checkpoints, interruption."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Protocol

import attrs
import torch

from ldm_core.build import seeded
from ldm_core.errors import Interrupted, TrainingError
from ldm_core.settings import FirstStageTrainerSettings, TrainerSettings
from ldm_core.streams import mix_seed
from ldm_core.training import checkpoint
from ldm_core.training.ema import EMA
from ldm_core.training.engine import Part
from ldm_core.training.loader import Loader, MicroBatch
from ldm_core.training.rates import learning_rate
from ldm_core.training.world import World


class Task(Protocol):
    """What is trained: named parts, stepped in order, and one step of it."""

    stage: str
    parts: Sequence[Part]
    ema: EMA | None
    part_steps: dict[str, int]
    """How many optimizer steps each part has made (a discriminator starts later)."""

    def prepare(self, start: int) -> None:
        """Called once before the first step (from 0) of this process."""
        ...

    def step(self, step: int, micros: Sequence[MicroBatch], *, measure: bool) -> Mapping[str, Any]:
        """One optimizer step of every part; with `measure`, logs as tensors or floats, else whatever is at hand."""
        ...


class Stop:
    """Turns Ctrl-C and SIGTERM into a flag while it is entered; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name


@attrs.frozen
class Run:
    """What a stage of a run is handed: its folder, this process, the observers' hooks, and the stop flag."""

    out: str
    world: World
    hook: Any
    stop: Stop
    metrics: Any

    def say(self, text: str, level: str = "info") -> None:
        """A line for the user, from the main process."""
        if self.world.main:
            self.hook.ldm_message(text=text, level=level)


def train(
    task: Task,
    loader: Loader,
    settings: TrainerSettings | FirstStageTrainerSettings,
    run: Run,
    *,
    folder: str,
    identity: str,
) -> None:
    """Train to ``settings.steps``, going on from the newest checkpoint in `folder`.

    Raises :class:`Interrupted` after a checkpoint when asked to stop, :class:`TrainingError` where the loss is not
    finite (the last checkpoint stays).
    """
    found = checkpoint.Found(folder, identity)
    for line in found.damaged:
        run.say(line, "warning")
    if found.step:
        for part in task.parts:
            task.part_steps[part.name] = int(found.manifest["part_steps"][part.name])
            checkpoint.load_part(part, found.tensors, task.part_steps[part.name])
        if task.ema is not None:
            shadow = {k.removeprefix("ema/"): v for k, v in found.tensors.items() if k.startswith("ema/")}
            task.ema.load(shadow, int(found.manifest["ema_updates"]))
    start = found.step
    del found
    task.prepare(start)
    if run.world.main:
        run.hook.ldm_stage_start(stage=task.stage, steps=settings.steps, start=start)

    def save(step: int) -> None:
        checkpoint.write(
            folder,
            step,
            task.parts,
            task.ema,
            run.world,
            identity=identity,
            part_steps=task.part_steps,
            keep=settings.keep_checkpoints,
        )

    done = logged = start
    since, waited = time.perf_counter(), 0.0
    batches = loader.steps(start)
    for step in range(start, settings.steps):
        asked_at = time.perf_counter()
        micros = next(batches)
        waited += time.perf_counter() - asked_at
        saving = (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps
        measure = (step + 1) % settings.log_every == 0 or saving or step == start
        lr = learning_rate(settings, step)
        for part in task.parts:
            part.set_lr(lr)
        with seeded(mix_seed(identity, step, run.world.rank)):  # what dropout draws, so that a resumed run repeats it
            logs = task.step(step, micros, measure=measure)
        if task.ema is not None:
            task.ema.update()
        done = step + 1
        floats: dict[str, float] = {}
        if measure:
            floats = {k: _number(v) for k, v in logs.items() if v is not None}
            if "loss" in floats:  # of all processes, so that all of them stop here, or none
                mean = run.world.average(torch.tensor(floats["loss"], device=run.world.device))
                floats["loss"] = float(mean)
            if not math.isfinite(floats.get("loss", 0.0)):
                raise TrainingError(
                    f"{task.stage}: the loss is {floats['loss']} at step {done}; the last checkpoint stays. Lower the "
                    "learning rate, set clip=1.0, or use precision=fp32"
                )
            now = time.perf_counter()
            span = max(now - since, 1e-9)
            floats.update(
                lr=lr,
                images_per_second=settings.images_per_step * (done - logged) / span,
                data_wait=waited / span,
            )
            logged = done
            since, waited = now, 0.0
            if run.world.main:
                run.metrics.write(stage=task.stage, step=done, **floats)
        if run.world.main:
            run.hook.ldm_step(stage=task.stage, step=done, logs=floats)
        stopping = run.world.any(bool(run.stop.asked))
        if stopping or saving:
            save(done)
        if stopping and done < settings.steps:
            if run.world.main:
                run.hook.ldm_stage_end(stage=task.stage, status="interrupted")
            raise Interrupted(
                f"{task.stage.replace('_', ' ')}: stopped at step {done} of {settings.steps} with a checkpoint; "
                "the same command goes on from there"
            )


def _number(value: Any) -> float:
    return float(value.detach().float().mean()) if isinstance(value, torch.Tensor) else float(value)
