"""The samples at the end of a run: files, and one sheet with what each was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldm_core import images, storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import DataInfo
from ldm_core.pipeline import Pipeline
from ldm_core.recipe import Recipe
from ldm_core.training.loader import Examples
from ldm_core.training.loop import Run

SHEET = "samples.png"


def draw(
    recipe: Recipe,
    info: DataInfo,
    catalog: Catalog,
    run: Run,
    held_out: Callable[[Sequence[str]], tuple[Any, bool]],
    examples: Sequence[Mapping[str, Any]] | None,
    *,
    strict: bool,
) -> None:
    """Sample `examples`, one mapping of conditioner inputs an image, or what the recipe's prompts or held-out data
    ask for; write ``samples/`` and the sheet into the run's folder."""
    pipeline = Pipeline.load(run.out, device=str(run.world.device), catalog=catalog)
    pipeline.recipe = recipe  # sampling settings may differ from those it was trained with
    settings = recipe.sample
    wanted = list(examples) if examples else _wanted(recipe, pipeline, held_out)
    count = max(settings.images, len(wanted))
    batches = -(-count // settings.batch)
    run.hook.ldm_stage_start(stage="samples", steps=settings.steps * batches, start=0)

    def told(progress: Any) -> bool:
        run.hook.ldm_step(stage="samples", step=progress.step, logs={})
        return not run.stop.asked

    made = pipeline.sample(examples=wanted or None, images=count, strict=strict, callback=told)
    folder = storage.join(run.out, "samples")
    for i, sampled in enumerate(made):
        sampled.save(storage.join(folder, f"{i:04d}.png"))
    for old in storage.list_files(folder):
        number = storage.base_name(old.url).removesuffix(".png")
        if number.isdecimal() and int(number) >= len(made):
            storage.remove(old.url)  # an earlier sampling made more
    captions = [s.prompt or (_words(info, wanted[i % len(wanted)]) if wanted else "") for i, s in enumerate(made)]
    sheet = images.grid([s.image for s in made], captions if any(captions) else None, cell=128)
    url = storage.join(run.out, SHEET)
    storage.atomic_write(url, images.png_bytes(sheet))
    run.hook.ldm_images(stage="samples", step=settings.steps, name=SHEET, url=url)


def _wanted(
    recipe: Recipe, pipeline: Pipeline, held_out: Callable[[Sequence[str]], tuple[Any, bool]]
) -> list[dict[str, Any]]:
    prompts = recipe.sample.prompts
    if prompts and set(pipeline.reads) == {"caption"}:
        return [{"caption": p} for p in prompts]
    if not pipeline.reads:
        return []
    dataset, _ = held_out(pipeline.reads)
    rows = Examples(dataset, recipe.image_size, recipe.data, list(pipeline.reads)).first(recipe.sample.images)
    captions = [{"caption": prompts[i % len(prompts)]} if prompts else {} for i in range(len(rows))]
    return [{**row, **caption} for row, caption in zip(rows, captions, strict=True)]


def _words(info: DataInfo, example: Mapping[str, Any]) -> str:
    """What a picture without a prompt was made from: its class, or the classes of its boxes."""
    for key in ("class_label", "box_labels"):
        if key in example:
            labels = np.atleast_1d(np.asarray(example[key])).tolist()
            known = info.class_names.get(key)
            return ", ".join(known[i] if known and i < len(known) else str(i) for i in labels)
    return ""
