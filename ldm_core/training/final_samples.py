"""The samples at the end of a run: files, and one sheet with what each was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_core import images, storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import DataInfo
from ldm_core.errors import NotFiniteError
from ldm_core.pipeline import Pipeline
from ldm_core.recipe import Recipe
from ldm_core.training import sample_sheets
from ldm_core.training.loop import Run

SHEET = "samples.png"


def draw(
    recipe: Recipe,
    info: DataInfo,
    catalog: Catalog,
    run: Run,
    held_out: sample_sheets.HeldOut,
    examples: Sequence[Mapping[str, Any]] | None,
    *,
    strict: bool,
) -> None:
    """Sample `examples`, one mapping of conditioner inputs an image, or what the recipe's prompts or held-out data
    ask for; write ``samples/`` and the sheet into the run's folder. All processes must call it: each draws its share,
    and the main one writes."""
    main = run.world.main
    pipeline = Pipeline.load(run.out, device=str(run.world.device), catalog=catalog)
    pipeline.recipe = recipe  # sampling settings may differ from those it was trained with
    settings = recipe.sample
    rows = sample_sheets.wanted(recipe, pipeline.reads, held_out, examples)
    share = -(-max(settings.images, len(rows)) // run.world.size)
    batches = -(-share // settings.batch)
    if main:
        run.hook.ldm_stage_start(stage="samples", steps=settings.steps * batches, start=0)

    def told(progress: Any) -> bool:
        if main:
            run.hook.ldm_step(stage="samples", step=progress.step, logs={})
        return not run.stop.asked

    folder = storage.join(run.out, "samples")
    try:
        made = sample_sheets.sample(pipeline, rows, run.world, strict=strict, told=told)
    except NotFiniteError as error:
        for sampled in error.images if main else ():  # those that are sound stay
            sampled.save(storage.join(folder, f"{sampled.seed - settings.seed:04d}.png"))
        raise
    if not main:
        return
    for i, sampled in enumerate(made):
        sampled.save(storage.join(folder, f"{i:04d}.png"))
    for old in storage.list_files(folder):
        number = storage.base_name(old.url).removesuffix(".png")
        if number.isdecimal() and int(number) >= len(made):
            storage.remove(old.url)  # an earlier sampling made more
    url = storage.join(run.out, SHEET)
    storage.atomic_write(url, images.png_bytes(sample_sheets.sheet(made, rows, info)))
    run.hook.ldm_images(stage="samples", step=settings.steps, name=SHEET, url=url)
