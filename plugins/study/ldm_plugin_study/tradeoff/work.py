"""One cell: its first stage and denoiser trained, its weights kept at several times, its samples measured."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import attrs

import ldm_core
from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.config.structure import structure, unstructure
from ldm_core.errors import ConfigError, Interrupted, LDMError
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_plugin_study.study import quality
from ldm_plugin_study.tradeoff.plan import OF_MEASURES, PIXELS, Plan, recipe_of

Tell: TypeAlias = Callable[[str], None]
PACE = "pace.json"
"""The measured seconds of a training step."""
RUN, MARKS, MEASURED = "run", "marks", "measured"
"""Folders of a cell: its training, the weights kept, the figures."""
_TIMED = 16  # steps of the training by which those of a budget in minutes are counted
_EVERY = 30.0  # seconds between lines of progress


@attrs.frozen(kw_only=True)
class Job:
    """A cell's work, for a process of its own: the plan, the cell, its denoiser, a file for mistakes."""

    plan: Plan
    cell: str
    denoiser: dict[str, Any]
    problems: str = ""


@attrs.frozen(kw_only=True)
class Sampling:
    """A sampling to be measured, by its steps; None: reconstructions, without any."""

    steps: int | None
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A short name, of a folder too."""
        return "reconstruction" if self.steps is None else f"{self.steps}-steps"


def do(job: Job, catalog: Catalog, say: Tell) -> None:
    """Do the rest of a cell's work. Raises LDMErrors; Interrupted when asked to stop, after a checkpoint."""
    plan, cell = job.plan, job.cell
    plain = recipe_of(plan, cell, catalog, job.denoiser)
    tell: Tell = lambda line: say(f"{cell}: {line}")  # noqa: E731
    for steps in _marks(plan, cell, plain, catalog, tell):
        folder = plan.place(cell, MARKS, str(steps))
        if storage.exists(storage.join(folder, artifacts.MODEL_FILE)):
            continue
        _train(plan, cell, plain, steps, catalog, tell)
        for name in (RECIPE_FILE, artifacts.STAGE_FILE, artifacts.MODEL_FILE):  # the model last: then all is there
            content = storage.read_bytes(plan.place(cell, RUN, name))
            storage.atomic_write(storage.join(folder, name), content)
    every = list(questions(plan, cell))
    left = [each for each in every if not quality.finished(*each)]
    for number, (question, sampling, folder) in enumerate(left):
        tell(f"measuring {storage.base_name(question.run)} steps, {sampling.name}, {number + 1} of {len(left)}")
        quality.evaluate(question, sampling, folder)


def marks(plan: Plan, cell: str) -> list[int]:
    """The steps with weights to keep, in their order; none while a budget in minutes is not counted in steps."""
    total, least = plan.steps, 1
    if plan.minutes:
        pace = read_pace(plan, cell)
        if "calibration" not in pace:
            return []
        total, least = round(60 * plan.minutes / pace["calibration"]), int(pace["calibrated"])
    return sorted({max(least, round(share * total)) for share in plan.times})


def read_pace(plan: Plan, cell: str) -> dict[str, float]:
    """The seconds of a step as measured, `seconds`; `calibration`: the basis of a budget in minutes, taken at
    the step `calibrated`."""
    url = plan.place(cell, PACE)
    return dict(documents.parse_json(storage.read_text(url), url)) if storage.exists(url) else {}


def questions(plan: Plan, cell: str) -> list[tuple[quality.Question, Sampling, str]]:
    """The evaluations of a cell and their folders: every kept time at every number of steps, and reconstructions."""
    found = []
    kept = marks(plan, cell)
    for steps in kept:
        weights = artifacts.sha256(plan.place(cell, MARKS, str(steps), artifacts.MODEL_FILE))
        asked = [Sampling(steps=number) for number in plan.sample_steps]
        if steps == kept[-1] and plan.reconstruction and cell != PIXELS:
            asked.append(Sampling(steps=None))
        found += [_question(plan, cell, steps, weights, sampling) for sampling in asked]
    return found


def _question(
    plan: Plan, cell: str, steps: int, weights: str, sampling: Sampling
) -> tuple[quality.Question, Sampling, str]:
    own = plan.reconstruction if sampling.steps is None else plan.metrics
    more = ("--against", plan.against or "run", "--quiet")
    question = quality.Question(
        run=plan.place(cell, MARKS, str(steps)),
        metrics=own,
        value=plan.value if sampling.steps is not None else "",
        images=plan.images,
        more=(*more, "--bootstrap", str(plan.bootstrap)) if plan.bootstrap else more,
        settings=tuple(settings_of(plan, own, OF_MEASURES)),
        weights=weights,
    )
    return question, sampling, plan.place(cell, MEASURED, f"{steps}-{sampling.name}")


def settings_of(plan: Plan, metrics: str, others: Sequence[str] = ()) -> list[str]:
    """The settings of these metrics, and those that begin with one of the `others`."""
    words = [*(each.strip().partition(":")[0] for each in metrics.split(",")), *others]
    return [line for line in plan.measures if line.partition("=")[0].partition(".")[0].strip() in words]


def _marks(plan: Plan, cell: str, plain: Mapping[str, Any], catalog: Catalog, tell: Tell) -> list[int]:
    """:func:`marks`, after the first steps of the training if minutes are to be counted in steps by them."""
    while not (found := marks(plan, cell)):
        steps = reached(plan, cell) + _TIMED
        _train(plan, cell, plain, steps, catalog, tell)
        pace = read_pace(plan, cell)
        if "seconds" in pace:
            _write_pace(plan, cell, pace | {"calibration": pace["seconds"], "calibrated": steps})
    passed = reached(plan, cell)
    for steps in found:
        if steps < passed and not storage.exists(plan.place(cell, MARKS, str(steps), artifacts.MODEL_FILE)):
            raise ConfigError(
                f"times: the training of {cell} is at step {passed}, and the weights of step {steps} were not kept; "
                "ask for the former times and more, or give another folder with `out`"
            )
    return found


def reached(plan: Plan, cell: str) -> int:
    """The last step of the cell's finished trainings."""
    run = plan.place(cell, RUN)
    if not storage.exists(storage.join(run, RECIPE_FILE)):
        return 0
    return ldm_core.Run.open(run).trained.get("denoiser", 0)


def _train(plan: Plan, cell: str, plain: Mapping[str, Any], steps: int, catalog: Catalog, tell: Tell) -> None:
    """Train, or go on, up to `steps` of the denoiser, and measure the pace."""
    recipe = {**plain, "trainer": {**plain["trainer"], "steps": steps}}
    watch = Watch(tell)
    tell(f"training to step {steps}")
    try:
        ldm_core.train(recipe, out=plan.place(cell, RUN), callback=watch, catalog=catalog)
    finally:
        taken, before = watch.taken("denoiser"), read_pace(plan, cell)
        if taken and len(taken) >= before.get("steps", 0):
            _write_pace(plan, cell, {**before, "seconds": median(taken), "steps": len(taken)})


def _write_pace(plan: Plan, cell: str, pace: Mapping[str, float]) -> None:
    storage.atomic_write(plan.place(cell, PACE), json.dumps(pace) + "\n")


class Watch:
    """A callback of a training that times its steps, and tells of them now and then; it ends it after `most` steps of
    a stage."""

    def __init__(self, tell: Tell, most: int = 0) -> None:
        self._tell, self._most = tell, most
        self._times: dict[str, list[float]] = {}
        self._told = time.perf_counter()

    def __call__(self, progress: ldm_core.TrainingProgress) -> bool:
        """See :func:`ldm_core.train`."""
        now = time.perf_counter()
        own = self._times.setdefault(progress.stage, [])
        own.append(now)
        if now - self._told > _EVERY:
            self._told = now
            self._tell(f"{progress.stage} {progress.step}/{progress.steps}")
        return not self._most or len(own) < self._most

    def taken(self, stage: str) -> list[float]:
        """The seconds between the steps of a stage; without the first ones, where there are more than a few."""
        own = self._times.get(stage, [])
        found = [b - a for a, b in pairwise(own)]
        return found[2:] if len(found) > 4 else found


def main() -> int:
    """Do the job on stdin, and leave a user's mistake in its file."""
    from ldm_core.cli.catalog import installed
    from ldm_core.cli.output import say

    job = structure(json.loads(sys.stdin.read()), Job)
    try:
        do(job, installed(), lambda line: say(f"study: {line}", err=True))
    except Interrupted:
        return 130
    except LDMError as error:
        lines = list(error.problems) if isinstance(error, ConfigError) else [str(error)]
        Path(job.problems).write_text(json.dumps(lines))
        return 2
    return 0


def as_text(job: Job) -> str:
    """A job for stdin."""
    return json.dumps(unstructure(job))


if __name__ == "__main__":
    sys.exit(main())
