"""Samples on the way: the model's pictures at intervals during its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor

from ldm_core.data import images
from ldm_core.data.palettes import palette_of
from ldm_core.errors import Interrupted, NotFiniteError
from ldm_core.model.build import make_model
from ldm_core.model.fill import load_weights
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.pieces.decoders import load_decoder
from ldm_core.sampling.pieces.runtimes import require_runtime
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.training.context import RunContext
from ldm_core.training.engine.collective import in_all
from ldm_core.training.samples import sheets

FOLDER = "previews"


@contextmanager
def drawing(context: RunContext, recipe: Recipe, weights: Mapping[str, Tensor], where: str) -> Iterator[Pipeline]:
    """A pipeline of `recipe` with the run's present `weights`, in a model of its own that is dropped again: neither the
    training's modules nor any random generator is touched, whatever ZeRO has made of them. All processes must enter it;
    they raise torch.OutOfMemoryError together."""
    device = context.run.world.device
    recipe = attrs.evolve(recipe, sample=attrs.evolve(recipe.sample, runtime="torch"))  # these weights are used once
    known = {"first_stage": artifacts.sha256(context.stage_url)} if recipe.sample.decoder else {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        made: list[Pipeline] = []

        def make() -> None:
            stage = context.stage()
            model = make_model(recipe, context.catalog, stage)
            load_weights(model, dict(weights), where)
            model.to(device).eval().requires_grad_(False)
            pipeline = Pipeline(recipe, stage, model, context.catalog, class_names=context.info.class_names, **known)
            pipeline.palettes = {key: palette_of(rows) for key, rows in context.info.palettes.items()}
            pipeline.folder = context.out
            made.append(pipeline)

        in_all(context.run.world, make)
        yield made[0]


def require_decoders(context: RunContext) -> None:
    """Raise what :func:`load_decoder` raises of the decoders of the run's pictures, and ComponentError for an unknown
    runtime, before it is trained for hours."""
    recipe = context.recipe
    require_runtime(recipe.sample.runtime, context.catalog)
    for name in {recipe.sample.decoder, recipe.sample.preview_decoder} - {""}:
        load_decoder(name, context.out, recipe, artifacts.sha256(context.stage_url), context.catalog)


def previewer(context: RunContext, task: Any) -> Callable[[int], None]:
    """A function of the step to draw the run's samples with the present weights (averaged, if `task` keeps an average).

    It writes ``previews/samples-00001000.png``. All processes must call it; each draws its share, and the main one
    writes. An interrupted preview, or one with too little memory, leaves no file and lets the training go on.
    """
    world, recipe = context.run.world, context.recipe
    require_decoders(context)
    other = recipe.sample.preview_decoder or recipe.sample.decoder
    recipe = attrs.evolve(recipe, sample=attrs.evolve(recipe.sample, decoder=other))
    rows: list[dict[str, Any]] | None = None

    def preview(step: int) -> None:
        nonlocal rows
        weights = task.weights()
        try:
            with drawing(context, recipe, weights, f"the preview of step {step}") as pipeline:
                if rows is None:
                    rows = sheets.wanted(
                        recipe, pipeline.reads, context.held_out, context.inputs.rows, context.degraded
                    )
                made = sheets.sample(pipeline, rows, world, told=lambda progress: not context.run.stop.asked)
        except Interrupted:
            return
        except NotFiniteError as error:
            context.run.say(f"denoiser: no preview at step {step}; {error}", "warning")
            return
        except torch.OutOfMemoryError as error:
            context.run.say(f"denoiser: no preview at step {step}, memory does not suffice for {error}", "warning")
            return
        sheet = images.png_bytes(sheets.sheet(made, rows, context.shown)) if world.main else None
        context.picture("denoiser", step, f"{FOLDER}/samples-{step:08d}.png", sheet)

    return preview
