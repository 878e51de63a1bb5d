"""The time of a study, by short trials of each cell."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

import ldm_core
from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.config.structure import digest
from ldm_core.recipe import artifacts
from ldm_core.training import workflow
from ldm_plugin_study.bench.gauge.cases import cases
from ldm_plugin_study.bench.gauge.rounds import Clock
from ldm_plugin_study.bench.gauge.subject import Subject
from ldm_plugin_study.bench.measure import Measured
from ldm_plugin_study.bench.result.choice import Choice
from ldm_plugin_study.study import quality
from ldm_plugin_study.tradeoff import work
from ldm_plugin_study.tradeoff.plan import Plan, recipe_of

FILE = "estimate.json"
"""The measured trial of a cell."""
_MOST = 8  # images of a trial's batch
_STEPS = 3  # steps of a first stage's trial


@attrs.frozen(kw_only=True)
class Estimate:
    """The remaining seconds of a cell's work: its first stage, its denoiser, its samples."""

    cell: str
    stage: float
    denoiser: float
    samples: float

    @property
    def whole(self) -> float:
        """All of them."""
        return self.stage + self.denoiser + self.samples


def estimate(plan: Plan, cell: str, denoiser: Mapping[str, Any], catalog: Catalog, device: torch.device) -> Estimate:
    """Estimate by a trial, or by the one of before. Encoding of the data, reading of pictures and the metrics' own
    networks are not in it."""
    plain = recipe_of(plan, cell, catalog, denoiser)
    url, key = plan.place(cell, FILE), digest(plain)
    found: dict[str, Any] = dict(documents.parse_json(storage.read_text(url), url)) if storage.exists(url) else {}
    if found.get("recipe") != key:
        found = {"recipe": key, **_trial(plain, catalog, device)}
        storage.atomic_write(url, json.dumps(found, indent=2) + "\n")
    stage_done = storage.exists(plan.place(cell, work.RUN, artifacts.STAGE_FILE))
    steps = max(work.marks(plan, cell), default=0) or plan.steps
    done = work.reached(plan, cell)
    step = float(work.read_pace(plan, cell).get("seconds", found["step"]))
    seconds = (
        60 * plan.minutes * (1 - min(1.0, done / steps if steps else 0.0)) if plan.minutes else step * (steps - done)
    )
    return Estimate(
        cell=cell,
        stage=0.0 if stage_done else found["stage"],
        denoiser=max(0.0, seconds),
        samples=found["image_step"] * plan.images * sum(_left(plan, cell)),
    )


def _left(plan: Plan, cell: str) -> list[int]:
    """The sampler's steps of each evaluation to come."""
    kept = work.marks(plan, cell)
    models = [storage.exists(plan.place(cell, work.MARKS, str(n), artifacts.MODEL_FILE)) for n in kept]
    if not kept or not all(models):
        return [n for _ in plan.times for n in plan.sample_steps]
    return [each[1].steps or 0 for each in work.questions(plan, cell) if not quality.finished(*each)]


def _trial(plain: Mapping[str, Any], catalog: Catalog, device: torch.device) -> dict[str, float]:
    """Seconds of the first stage's training, of a step of the denoiser's, and of an image and step of the sampler."""
    recipe, info = workflow.prepare(plain, catalog)
    stage = 0.0
    if recipe.trains_stage:
        watch = work.Watch(lambda line: None, _STEPS)
        with tempfile.TemporaryDirectory(prefix="ldm-study-") as folder:
            ldm_core.train(
                dict(plain), out=str(Path(folder, "run")), callback=watch, until="first_stage", catalog=catalog
            )
        taken = watch.taken("first_stage")
        stage = recipe.first_stage_trainer.steps * (min(taken) if taken else 0.0)
    batch = min(_MOST, recipe.trainer.images_per_step)
    subject = Measured(recipe=recipe, info=info, catalog=catalog, device=device, batch=batch).subject()
    step = _seconds(subject, Choice(components=("train",), precisions=(recipe.trainer.precision,)))
    image_step = _seconds(subject, Choice(components=("step",), sampler_steps=1))
    return {"stage": stage, "step": step * recipe.trainer.images_per_step, "image_step": image_step}


def _seconds(subject: Subject, choice: Choice) -> float:
    """Seconds an image of the chosen component, of a second call."""
    clock = Clock(subject.device)
    found = 0.0
    for case in cases(subject, choice, []):
        clock.seconds(case, 1)
        found = clock.seconds(case, 1) / (case.amount * case.parts)
    return found


def lines(found: list[Estimate], jobs: int) -> list[str]:
    """The estimates in words, and the whole for so many cells at once."""
    out = [
        f"{each.cell}: about {_in_words(each.whole)} left (first stage {_in_words(each.stage)}, denoiser "
        f"{_in_words(each.denoiser)}, samples {_in_words(each.samples)})"
        for each in found
    ]
    whole = max([sum(each.whole for each in found) / jobs, *(each.whole for each in found)])
    return [*out, f"about {_in_words(whole)} in all, {jobs} at once, beside encoding, the metrics' networks and timing"]


def _in_words(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
