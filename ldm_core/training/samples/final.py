"""The samples at the end of a run: a file for each, written after its batch, and one sheet with all inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ldm_core import storage
from ldm_core.data import images
from ldm_core.errors import Interrupted, LDMError
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.sampling.result import Sampled
from ldm_core.training.context import SHEET, RunContext
from ldm_core.training.samples import sheets

FOLDER = "samples"


def draw(context: RunContext) -> None:
    """Sample the requested inputs, or else the recipe's prompts or held-out data.

    Writes ``samples/`` and the sheet into the run's folder. All processes must call it: each draws and writes its
    share. Finished files stay, with a sheet, if this is interrupted or fails. Files of an earlier sampling are removed
    if this one has no such picture; others' files stay.
    """
    run, recipe, main = context.run, context.recipe, context.run.world.main
    pipeline = Pipeline.load(run.out, device=str(run.world.device), catalog=context.catalog)
    pipeline = pipeline.with_recipe(recipe)  # sampling settings may differ from those it was trained with
    settings = recipe.sample
    rows = sheets.wanted(recipe, pipeline.reads, context.held_out, context.inputs.rows, context.degraded)
    count = max(settings.images, len(rows))
    share = -(-count // run.world.size)
    batches = -(-share // settings.batch)
    if main:
        run.hook.ldm_stage_start(stage="samples", steps=settings.steps * batches, start=0)
        context.own.note({_name(i): None for i in range(count)})
    run.world.barrier()

    def told(progress: Any) -> bool:
        if main:
            run.hook.ldm_step(stage="samples", step=progress.step, logs={})
        return not run.stop.asked

    def write(batch: Sequence[Sampled]) -> None:
        for sampled in batch:
            sampled.save(storage.join(run.out, _name(sampled.seed - settings.seed)))

    finished: list[Sampled] = []
    with _counted(context, finished, rows, count):
        strict = context.inputs.strict
        made = sheets.sample(pipeline, rows, run.world, strict=strict, told=told, done=write, finished=finished)
    if not main:
        return
    context.own.note({_name(i): images.png_bytes(one.image, one.metadata) for i, one in enumerate(made)})
    context.own.remove(name for name in context.own.present([FOLDER]) if _number(name) >= count)
    _put_sheet(context, made, rows)


def _name(index: int) -> str:
    return f"{FOLDER}/{index:04d}.png"


def _number(name: str) -> int:
    number = name.removeprefix(f"{FOLDER}/").removesuffix(".png")
    return int(number) if number.isdecimal() else -1


def _put_sheet(context: RunContext, made: Sequence[Sampled], rows: Sequence[Any]) -> None:
    sheet = images.png_bytes(sheets.sheet(made, rows, context.shown))
    context.picture("samples", context.recipe.sample.steps, SHEET, sheet)


@contextlib.contextmanager
def _counted(context: RunContext, finished: list[Sampled], rows: Sequence[Any], count: int) -> Iterator[None]:
    """The main process makes a sheet of the `finished` and says their number if anything ends the block early."""
    try:
        yield
    except (LDMError, torch.OutOfMemoryError) as error:
        told = f"{len(finished)} of {count} samples are finished and lie in {context.own.url(FOLDER)}"
        if finished and context.run.world.main:
            shown = [rows[(one.seed - context.recipe.sample.seed) % len(rows)] for one in finished] if rows else []
            with contextlib.suppress(LDMError):  # a disk that is full
                _put_sheet(context, finished, shown)
        if isinstance(error, Interrupted):
            raise Interrupted(f"samples: stopped; {told}; the same command draws all of them") from None
        if finished:
            context.run.say(told, "warning")
        raise
