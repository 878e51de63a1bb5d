"""The loop of every task: resume, steps, logs, checkpoints, signals, validation and pictures on the way.

:func:`train` raises :class:`Interrupted` after a checkpoint when asked to stop or when the time is over,
:class:`TrainingError` if the loss is not finite (the last checkpoint stays) or another run has taken the folder, and
:class:`~ldm_core.errors.CheckpointError` if the last checkpoint cannot be written.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, TypeVar

import torch

from ldm_core.contracts.streams import mix_seed
from ldm_core.errors import Interrupted, TrainingError
from ldm_core.model.fill import seeded
from ldm_core.recipe.settings import FirstStageTrainerSettings, TrainerSettings
from ldm_core.training.checkpoints.checkpointer import Checkpointer
from ldm_core.training.engine.collective import Flags
from ldm_core.training.feed.loader import Loader
from ldm_core.training.folder.metrics import VALIDATION
from ldm_core.training.folder.stopping import Ask, Run
from ldm_core.training.learning_rate import learning_rate
from ldm_core.training.task import Task

T = TypeVar("T")
Settings = TrainerSettings | FirstStageTrainerSettings
Evaluate = Callable[[int], bool]
"""Measures the model after a step, before its checkpoint; true if it was cut off, as the run is asked to leave: the
resumed run calls it for the same step. All processes call it, and it is the same in all."""


def _never(step: int) -> bool:
    return False


def train(
    task: Task, loader: Loader, settings: Settings, run: Run, *, folder: str, identity: str, evaluate: Evaluate = _never
) -> None:
    """Train to ``settings.steps``, going on from the newest whole checkpoint in `folder`; for errors see the module."""
    checkpoints = Checkpointer(task, folder, identity, settings, run)
    start = checkpoints.restore()
    task.prepare(start)
    if run.world.main:
        run.hook.ldm_stage_start(stage=task.stage, steps=settings.steps, start=start)
    # An error waits for a write under way, and ends the loader's workers: its traceback would keep them.
    with checkpoints, closing(loader.steps(start)) as batches:
        log, flags = _Log(task, settings, run, start), Flags(run.world)
        if log.apart(evaluate, start):
            raise _interrupted(task, settings, run, start, Ask.LEAVE)
        for step, micros in enumerate(log.timed(batches, settings.steps - start), start):
            done = step + 1
            due = done % settings.checkpoint_every == 0 or done == settings.steps
            measure = due or done % settings.log_every == 0 or step == start
            for part in task.parts:
                part.set_lr(learning_rate(settings, step))
            with seeded(mix_seed(identity, step, run.world.rank)):  # dropout draws from it: a resumed run repeats it
                logs = task.step(step, micros, measure=measure)
            log.put_down(done, logs, measure=measure)
            checkpoints.report()
            cut = log.apart(evaluate, done)
            ask = Ask(flags.largest(run.ask(settings.time_limit)))  # the same in all processes
            ask = max(ask, Ask.LEAVE) if cut else ask  # what it was cut off from needs this step's weights
            if ask is Ask.LOST:
                raise _lost(task, run, done)
            leaving = ask in (Ask.LEAVE, Ask.LIMIT) and done < settings.steps
            if ask and not due:
                log.require_finite(done, logs)  # else it was looked at already
            if ask or due:
                checkpoints.save(done, last=leaving or done == settings.steps)
            if leaving:
                raise _interrupted(task, settings, run, done, ask)
            if ask is Ask.SAVE:
                run.say(f"{task.stage}: checkpoint of step {done}, as asked for")
            log.measure_and_preview(done)


class _Log:
    """The numbers of a training: metrics, observers, speed, and a check for a finite loss."""

    def __init__(self, task: Task, settings: Settings, run: Run, start: int) -> None:
        self._task, self._settings, self._run = task, settings, run
        self._last = start  # the step of the last line
        self._since, self._waited = time.perf_counter(), 0.0

    def timed(self, batches: Iterator[T], count: int) -> Iterator[T]:
        """`count` of `batches`; the wait for them is timed."""
        for _ in range(count):
            begun = time.perf_counter()
            batch = next(batches)
            self._waited += time.perf_counter() - begun
            yield batch

    def put_down(self, done: int, logs: Mapping[str, Any], *, measure: bool) -> None:
        """Tell the observers of the step `done` (from 1); with `measure`, its numbers go into the metrics too."""
        floats = self._measured(done, logs) if measure else {}
        if self._run.world.main:
            self._run.hook.ldm_step(stage=self._task.stage, step=done, logs=floats)

    def _measured(self, done: int, logs: Mapping[str, Any]) -> dict[str, float]:
        settings, world = self._settings, self._run.world
        floats = {k: _number(v) for k, v in logs.items() if v is not None}
        if "loss" in floats:
            floats["loss"] = self.require_finite(done, floats)
        floats = {k: v for k, v in floats.items() if math.isfinite(v)}  # of a step left out; no JSON either
        now = time.perf_counter()
        span = max(now - self._since, 1e-9)
        floats.update(
            lr=learning_rate(settings, done - 1),
            images_per_second=settings.images_per_step * (done - self._last) / span,
            data_wait=self._waited / span,
        )
        if (peak := _peak_memory(world.device)) is not None:
            floats["peak_memory_mib"] = peak
        self._last, self._since, self._waited = done, now, 0.0
        if world.main:
            self._run.metrics.write(stage=self._task.stage, step=done, **floats)
        return floats

    def require_finite(self, done: int, logs: Mapping[str, Any]) -> float:
        """Give the mean loss of all processes, so all of them stop here, or none; 0 without a loss.

        It is the last resort: a task's own guard names the examples, and may leave a step out instead.
        """
        if "loss" not in logs:
            return 0.0
        world = self._run.world
        loss = float(world.average(torch.tensor(_number(logs["loss"]), device=world.device)))
        if not math.isfinite(loss) and self._settings.bad_steps == "stop":
            raise TrainingError(
                f"{self._task.stage}: the loss is {loss} at step {done}; the last checkpoint stays. Lower the "
                "learning rate, set clip=1.0, or use precision=fp32"
            )
        return loss

    def apart(self, evaluate: Evaluate, done: int) -> bool:
        """Evaluate; its time is no training time."""
        begun = time.perf_counter()
        cut = evaluate(done)
        self._since += time.perf_counter() - begun
        return cut

    def measure_and_preview(self, done: int) -> None:
        """Measure on held-out data and draw pictures, if due; their time is no training time."""
        task, settings, run = self._task, self._settings, self._run
        begun = time.perf_counter()
        if task.validate is not None and settings.validate_every and done % settings.validate_every == 0:
            if done == settings.steps:
                run.say(f"{task.stage.replace('_', ' ')}: last validation ...")  # no step follows that would show life
            floats = {k: _number(v) for k, v in task.validate(done).items()}
            if not floats:
                run.say(f"{task.stage}: the validation of step {done} was cut off, as the run was asked to stop")
            elif run.world.main:
                stage = task.stage + VALIDATION
                run.metrics.write(stage=stage, step=done, **floats)
                run.hook.ldm_step(stage=stage, step=done, logs=floats)
        if task.preview is not None and settings.preview_every and done % settings.preview_every == 0:
            task.preview(done)
        self._since += time.perf_counter() - begun


def _lost(task: Task, run: Run, done: int) -> TrainingError:
    return TrainingError(
        f"{task.stage}: stopped at step {done}, because another run has taken over {run.out}: this one had not "
        "refreshed its lock for long (was it stopped, or cut off from its storage?)"
    )


def _interrupted(task: Task, settings: Settings, run: Run, done: int, ask: Ask) -> Interrupted:
    if run.world.main:
        run.hook.ldm_stage_end(stage=task.stage, status="interrupted")
    why = f" after its {settings.time_limit:g} minutes" if ask is Ask.LIMIT else ""
    return Interrupted(
        f"{task.stage.replace('_', ' ')}: stopped{why} at step {done} of {settings.steps} with a checkpoint; "
        "the same command goes on from there"
    )


def _number(value: Any) -> float:
    return float(value.detach().float().mean()) if isinstance(value, torch.Tensor) else float(value)


def _peak_memory(device: torch.device) -> float | None:
    """The largest memory in use since the process began, MiB: tensors on an accelerator, else the process's
    resident memory; None if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
