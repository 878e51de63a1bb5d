"""Training a run's first stage: the loop, its latents' statistics, its scores on held-out images, its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from safetensors.torch import save

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import unstructure
from ldm_core.contracts import FirstStage, Site
from ldm_core.contracts.streams import mix_seed
from ldm_core.data.collate import to_images
from ldm_core.errors import ConfigError
from ldm_core.model.build import make_first_stage
from ldm_core.model.conformance.breaches import named
from ldm_core.model.conformance.first_stage import hold_stage
from ldm_core.model.fill import seeded
from ldm_core.model.parts import make
from ldm_core.recipe import artifacts
from ldm_core.recipe.places import handed_on
from ldm_core.recipe.recipe import Part, Recipe, versions
from ldm_core.training.context import RunContext
from ldm_core.training.engine.world import World
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.loader import example_name
from ldm_core.training.finetune import Start, start_first_stage
from ldm_core.training.first_stage.decoder import hold_latents, latents_of
from ldm_core.training.first_stage.parts import Training
from ldm_core.training.first_stage.task import FirstStageTask, Objectives
from ldm_core.training.first_stage.validation import HeldOut, described, evaluating, rounded
from ldm_core.training.latents.statistics import fit_normalization
from ldm_core.training.loop import train

_BLOCK = 32


def train_first_stage(context: RunContext, identity: str) -> None:
    """Train the first stage, fit its latents' statistics, measure it and write its file."""
    recipe, world = context.recipe, context.run.world
    world.barrier()  # before anyone writes, all have seen that there is nothing yet
    examples = Examples(context.dataset, recipe.image_size, recipe.data, ["image"])
    stage: Any = make_first_stage(recipe, context.catalog)
    started = start_first_stage(context, stage)
    settings = recipe.first_stage_trainer
    stage.to(world.device)
    part = named(recipe.first_stage, context.catalog)
    hold_stage(part, stage, recipe.image_size, recipe.image_channels, world.device, trains=True)
    decoder_alone = recipe.trains_stage and settings.train == "decoder"
    if decoder_alone:
        hold_latents(stage, started, recipe.image_size, recipe.image_channels)
    losses = make_losses(recipe, context.catalog, world)
    dataset, why_not = context.held_out()
    unmixed = attrs.evolve(recipe.data, balance="")
    pictures = HeldOut(Examples(dataset, recipe.image_size, unmixed, ["image"]), settings, world, losses.objective)
    if any(p.requires_grad for p in stage.parameters()):
        first_images = lambda count: (x for _, x in spread_images(examples, count, world))  # noqa: E731
        name_of = lambda place: example_name(context.dataset, None, place)  # noqa: E731
        training = Training(recipe, world, first_images, started.has, context.run.say)
        task = FirstStageTask(stage, losses, recipe, world, training, name_of=name_of)
        _watch(task, context, stage, pictures)
        loader = context.loader("first_stage", examples, examples.arrangement, examples.keys, examples.dataset)
        folder = context.checkpoints_of("first_stage")
        train(task, loader, settings, context.run, folder=folder, identity=identity)
    else:
        context.run.say(f"first stage: '{recipe.first_stage.use}' has nothing to train")
    stage.eval().requires_grad_(False)
    if not decoder_alone:
        blocks = spread_images(examples, settings.statistics_images, world, world.rank, world.size)
        batches = ((x, [mix_seed(recipe.seed, "statistics", i) for i in numbers]) for numbers, x in blocks)
        fit_normalization(stage, batches, world, one_std=settings.latent_std == "one")
    context.use_stage(stage)
    evaluate(context, stage, pictures, is_held_out=not why_not)
    context.report_bad(examples)
    if world.main:
        _write(context, stage, started, identity)
    if decoder_alone:
        context.run.say(
            f"first stage: its latents are those of {started.source}, whose models take this decoder with "
            f"sample.decoder={storage.shown(context.out)}"
        )
    world.barrier()


def make_losses(recipe: Recipe, catalog: Catalog, world: World) -> Objectives:
    """The recipe's stage objective and auxiliary losses, on the run's device, from the recipe's seed."""
    site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=recipe.first_stage.config.latent)
    parts: dict[str, Part] = {}
    for part in recipe.auxiliary_losses:
        if part.use in parts:
            raise ConfigError(f"auxiliary_losses: '{part.use}' is there twice; leave one out")
        parts[part.use] = part

    def placed(part: Part) -> Any:
        with seeded(mix_seed(recipe.seed, part.kind, part.use)):
            made = make(part, site, catalog)
        return made.to(world.device) if isinstance(made, torch.nn.Module) else made

    objective = placed(recipe.stage_objective)
    return Objectives(objective, {name: (part, placed(part)) for name, part in parts.items()})


def _write(context: RunContext, stage: FirstStage, started: Start, identity: str) -> None:
    """Write the first stage's file and the curves of its training."""
    recipe, settings = context.recipe, context.recipe.first_stage_trainer
    kept = {artifacts.LATENTS_OF: latents_of(context)} if settings.train == "decoder" and started.source else {}
    meta = artifacts.metadata(
        "first_stage",
        recipe.first_stage.use,
        handed_on(unstructure(recipe.first_stage.config)),
        versions(recipe, context.catalog),
        identity=identity,
        steps=settings.steps,
        image_channels=recipe.image_channels,
        **({"started": started.plain()} if started.source else {}),
        **kept,
        image_size=list(recipe.image_size),
        numbers=context.results.numbers,
    )
    module: Any = stage
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    context.write_trained("first_stage", artifacts.STAGE_FILE, save(state, metadata=meta), settings.steps)


def spread_images(
    examples: Examples, count: int, world: World, start: int = 0, step: int = 1
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """`count` images (or all) from evenly spaced places of the data, possibly sorted, in blocks of at most 32.

    Gives every `step`-th block from block `start` on: the images' numbers from 0 to `count`, and the images (B, c, H,
    W) in [-1, 1] on the run's device.
    """
    count = min(count, len(examples))
    for first in range(start * _BLOCK, count, step * _BLOCK):
        numbers = list(range(first, min(first + _BLOCK, count)))
        block = [examples[n * len(examples) // count]["image"] for n in numbers]
        yield numbers, to_images(np.stack(block)).to(world.device)


def _watch(task: FirstStageTask, context: RunContext, stage: Any, pictures: HeldOut) -> None:
    """Give the loop its measurements and pictures."""

    def again(x: torch.Tensor) -> torch.Tensor:
        """The pass of the training: before a codebook starts, latents are not quantised here either."""
        image: torch.Tensor = stage.reconstruct(x, streams=None).image
        return image

    def validate(step: int) -> Mapping[str, float]:
        steps = context.recipe.first_stage_trainer.steps
        with evaluating(stage):
            return rounded(pictures.measure(again, lambda: context.run.hurries(step, steps)))

    def preview(step: int) -> None:
        if context.run.world.main:
            with evaluating(stage):
                name = f"previews/reconstructions-{step:08d}.png"
                context.picture("first_stage", step, name, pictures.sheet(again))

    task.validate, task.preview = validate, preview


def evaluate(context: RunContext, stage: FirstStage, pictures: HeldOut, *, is_held_out: bool) -> None:
    """Scores and a picture of reconstructions of held-out images, through latents as a model sees them."""

    def again(x: torch.Tensor) -> torch.Tensor:
        return stage.decode(stage.latents(stage.encode_moments(x)))

    scores = rounded(pictures.measure(again))
    context.results.numbers.update(scores, evaluated_images=float(pictures.count), held_out=float(is_held_out))
    if context.run.world.main:
        context.picture("first_stage", 0, "reconstructions.png", pictures.sheet(again))
    context.run.metrics.write(stage="first_stage_evaluation", step=0, **context.results.numbers)
    kind = "held-out" if is_held_out else "training"
    context.run.say(f"first stage: {described(scores)} on {pictures.count} {kind} images")
