"""Samples on the way: the model's pictures at intervals during its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ldm_core.data import images
from ldm_core.errors import Interrupted, NotFiniteError
from ldm_core.model.build import make_model
from ldm_core.model.fill import load_weights
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.training.context import RunContext
from ldm_core.training.samples import sheets

FOLDER = "previews"


def previewer(context: RunContext, task: Any) -> Callable[[int], None]:
    """A function of the step to draw the run's samples with the present weights (averaged, if `task` keeps an average).

    It writes ``previews/samples-00001000.png``. All processes must call it; each draws its share, and the main one
    writes. The weights are copied into a separate model, dropped again: neither the training's modules nor any random
    generator is touched, whatever ZeRO has made of them. An interrupted preview, or one with too little memory, leaves
    no file and lets the training go on.
    """
    world, recipe = context.run.world, context.recipe
    rows: list[dict[str, Any]] | None = None

    def preview(step: int) -> None:
        nonlocal rows
        weights = task.weights()
        devices = [world.device] if world.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            stage = context.stage()
            model = make_model(recipe, context.catalog, stage)
            load_weights(model, weights, f"the preview of step {step}")
            model.to(world.device).eval().requires_grad_(False)
            pipeline = Pipeline(recipe, stage, model, context.catalog, class_names=context.info.class_names)
            if rows is None:
                rows = sheets.wanted(recipe, pipeline.reads, context.held_out, context.inputs.rows)
            try:
                made = sheets.sample(pipeline, rows, world, told=lambda progress: not context.run.stop.asked)
            except Interrupted:
                return
            except NotFiniteError as error:
                context.run.say(f"denoiser: no preview at step {step}; {error}", "warning")
                return
            except torch.OutOfMemoryError as error:
                context.run.say(f"denoiser: no preview at step {step}, memory does not suffice for {error}", "warning")
                return
        sheet = images.png_bytes(sheets.sheet(made, rows, context.info)) if world.main else None
        context.picture("denoiser", step, f"{FOLDER}/samples-{step:08d}.png", sheet)

    return preview
