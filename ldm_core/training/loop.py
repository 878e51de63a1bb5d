"""The loop that every task runs in: resume, steps, logs, checkpoints, signals, validation and pictures on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from ldm_core.contracts.streams import mix_seed
from ldm_core.errors import Interrupted, TrainingError
from ldm_core.model.fill import seeded
from ldm_core.recipe.settings import FirstStageTrainerSettings, TrainerSettings
from ldm_core.training.checkpoints.checkpointer import Keeper
from ldm_core.training.engine.collective import Flags
from ldm_core.training.feed.loader import Loader
from ldm_core.training.folder.stopping import Ask, Run
from ldm_core.training.learning_rate import learning_rate
from ldm_core.training.task import Task
from ldm_core.training.usage import peak_memory

# What a task may have beside, each a method or None:
#   validate(step) -> Mapping[str, float]   measurements on held-out data, made by all processes
#   preview(step) -> None                   pictures, written by the first process
#   state() -> dict[str, Tensor], load_state(dict)   what a resumed run needs beside parts and averages


def train(
    task: Task,
    loader: Loader,
    settings: TrainerSettings | FirstStageTrainerSettings,
    run: Run,
    *,
    folder: str,
    identity: str,
) -> None:
    """Train to ``settings.steps``, going on from the newest whole checkpoint in `folder`.

    Raises :class:`Interrupted` after a checkpoint when asked to stop or when the time is over,
    :class:`TrainingError` where the loss is not finite (the last checkpoint stays) or another run has taken the
    folder, :class:`~ldm_core.errors.CheckpointError` where the last checkpoint cannot be written.
    """
    keeper = Keeper(task, folder, identity, settings, run)
    start = keeper.resume()
    task.prepare(start)
    if run.world.main:
        run.hook.ldm_stage_start(stage=task.stage, steps=settings.steps, start=start)
    try:
        _Loop(task, settings, run, keeper, identity).run(loader, start)
    except KeyboardInterrupt:  # at once
        raise
    except BaseException:
        keeper.close()
        raise


class _Loop:
    """The steps of one training."""

    def __init__(self, task: Task, settings: Any, run: Run, keeper: Keeper, identity: str) -> None:
        self._task, self._settings, self._run, self._keeper = task, settings, run, keeper
        self._identity = identity
        self._flags = Flags(run.world)
        self._logged = 0  # the step of the last line
        self._since = self._waited = 0.0

    def run(self, loader: Loader, start: int) -> None:
        """From step `start` to the end."""
        task, settings, world = self._task, self._settings, self._run.world
        self._logged, self._since = start, time.perf_counter()
        batches = loader.steps(start)
        for step in range(start, settings.steps):
            asked_at = time.perf_counter()
            micros = next(batches)
            self._waited += time.perf_counter() - asked_at
            done = step + 1
            saving = done % settings.checkpoint_every == 0 or done == settings.steps
            measure = done % settings.log_every == 0 or saving or step == start
            lr = learning_rate(settings, step)
            for part in task.parts:
                part.set_lr(lr)
            with seeded(mix_seed(self._identity, step, world.rank)):  # dropout draws from it: a resumed run repeats it
                logs = task.step(step, micros, measure=measure)
            floats = self._measured(done, lr, logs) if measure else {}
            if world.main:
                self._run.hook.ldm_step(stage=task.stage, step=done, logs=floats)
            self._keeper.look()
            ask = Ask(self._flags.largest(self._run.ask(settings.time_limit)))
            self._obey(ask, done, saving=saving, logs=logs)
            self._beside(done)

    def _measured(self, done: int, lr: float, logs: Mapping[str, Any]) -> dict[str, float]:
        """The step's numbers, the loss agreed between all processes, written to the metrics."""
        task, settings, world = self._task, self._settings, self._run.world
        floats = {k: _number(v) for k, v in logs.items() if v is not None}
        if "loss" in floats:  # of all processes, so that all of them stop here, or none
            floats["loss"] = float(world.average(torch.tensor(floats["loss"], device=world.device)))
            self._hold_finite(done, floats["loss"])
        floats = {k: v for k, v in floats.items() if math.isfinite(v)}  # of a step that was left out; no JSON either
        now = time.perf_counter()
        span = max(now - self._since, 1e-9)
        floats.update(
            lr=lr,
            images_per_second=settings.images_per_step * (done - self._logged) / span,
            data_wait=self._waited / span,
        )
        if (peak := peak_memory(world.device)) is not None:
            floats["peak_memory_mib"] = peak
        self._logged, self._since, self._waited = done, now, 0.0
        if world.main:
            self._run.metrics.write(stage=task.stage, step=done, **floats)
        return floats

    def _hold_finite(self, done: int, loss: float) -> None:
        """The last resort: a task's own guard names the examples, and may leave a step out instead."""
        if not math.isfinite(loss) and self._settings.bad_steps == "stop":
            raise TrainingError(
                f"{self._task.stage}: the loss is {loss} at step {done}; the last checkpoint stays. Lower the "
                "learning rate, set clip=1.0, or use precision=fp32"
            )

    def _obey(self, ask: Ask, done: int, *, saving: bool, logs: Mapping[str, Any]) -> None:
        """Checkpoint after step `done` where it is due or asked for, and leave where that is asked for."""
        if ask is Ask.LOST:
            raise TrainingError(
                f"{self._task.stage}: stopped at step {done}, because another run has taken over {self._run.out}: this "
                "one had not refreshed its lock for long (was it stopped, or cut off from its storage?)"
            )
        steps = self._settings.steps
        leaving = ask in (Ask.LEAVE, Ask.LIMIT) and done < steps
        if not (saving or ask):
            return
        if not saving and "loss" in logs:  # else it was looked at already: weights that are lost are not worth keeping
            world = self._run.world
            self._hold_finite(done, float(world.average(torch.tensor(_number(logs["loss"]), device=world.device))))
        self._keeper.save(done, last=leaving or done == steps)
        if not leaving:
            if ask is Ask.SAVE:
                self._run.say(f"{self._task.stage}: checkpoint of step {done}, as asked for")
            return
        if self._run.world.main:
            self._run.hook.ldm_stage_end(stage=self._task.stage, status="interrupted")
        why = f" after its {self._settings.time_limit:g} minutes" if ask is Ask.LIMIT else ""
        raise Interrupted(
            f"{self._task.stage.replace('_', ' ')}: stopped{why} at step {done} of {steps} with a checkpoint; "
            "the same command goes on from there"
        )

    def _beside(self, done: int) -> None:
        """Measurements on held-out data and pictures, where they are due; the time they take is no training time."""
        task, settings, run = self._task, self._settings, self._run
        validate, preview = getattr(task, "validate", None), getattr(task, "preview", None)
        validating = validate is not None and settings.validate_every and done % settings.validate_every == 0
        previewing = preview is not None and settings.preview_every and done % settings.preview_every == 0
        if not (validating or previewing):
            return
        begun = time.perf_counter()
        if validating and validate is not None:
            floats = {k: _number(v) for k, v in validate(done).items()}
            if run.world.main:
                stage = f"{task.stage}_validation"
                run.metrics.write(stage=stage, step=done, **floats)
                run.hook.ldm_step(stage=stage, step=done, logs=floats)
        if previewing and preview is not None:
            preview(done)
        self._since += time.perf_counter() - begun


def _number(value: Any) -> float:
    return float(value.detach().float().mean()) if isinstance(value, torch.Tensor) else float(value)
