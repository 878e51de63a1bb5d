"""Training a run's model: the data, the conditioners' own learning, the loop, the model's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from safetensors.torch import save
from torch import Tensor

from ldm_core import storage
from ldm_core.contracts.streams import mix_seed
from ldm_core.model.build import make_model, make_objective, sampling_site
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import versions
from ldm_core.training.averages import posthoc
from ldm_core.training.denoiser.fit import fit_conditioners
from ldm_core.training.denoiser.previews import previewer
from ldm_core.training.denoiser.task import DenoiserTask
from ldm_core.training.denoiser.validation import HeldOutErrors
from ldm_core.training.feed.examples import Examples, arrange
from ldm_core.training.feed.loader import Loader, example_name
from ldm_core.training.finetune import start_model
from ldm_core.training.folder import curves
from ldm_core.training.latents import cache as latent_cache
from ldm_core.training.loop import train

if TYPE_CHECKING:
    from ldm_core.training.stages import Stages


def train_denoiser(work: Stages, identity: str) -> None:
    """Train denoiser and conditioners of `work` on latents and write the model's file."""
    recipe, settings, world, stage = work.recipe, work.recipe.trainer, work.run.world, work.stage()
    model = make_model(recipe, work.catalog, stage)
    started = start_model(work, model)
    fit_conditioners(work, model, started)
    made = work.moments()
    data, wanted = work.paired(), [*(["image"] if made is None else []), *recipe.reads]
    examples = Examples(data, recipe.image_size, recipe.data, wanted) if wanted else None
    fetch: Any = examples if made is None else latent_cache.LatentExamples(made, examples)
    loader = Loader(
        fetch,
        arrange(data, recipe.data, recipe.image_size),
        fetch.keys,
        images_per_step=settings.images_per_step,
        accumulate=settings.accumulate,
        steps=settings.steps,
        world=world,
        seed=mix_seed(recipe.seed, "denoiser"),
        workers=recipe.data.workers,
        bad=None if examples is None else examples.dataset,
    )
    model.to(world.device)
    objective = make_objective(recipe, work.catalog, sampling_site(recipe, stage))
    task = DenoiserTask(
        model, objective, stage, recipe, world, name_of=lambda place: example_name(data, made, place), say=work.run.say
    )
    if task.ema is not None and settings.ema_power:
        task.snapshot = lambda step: keep_averages(work, task, step, identity)
    if getattr(recipe.denoiser.config, "dropout", 0.0) and (world.size > 1 or settings.accumulate > 1):
        work.run.say(
            "denoiser: its dropout draws for a whole micro-batch at once, so the result depends on the number of "
            "processes and micro-batches (without dropout it does not)"
        )
    held_out = validation_of(work, task)
    task.validate = held_out
    task.preview = previewer(work, task)
    folder = storage.join(work.out, "checkpoints", "denoiser")
    train(task, loader, settings, work.run, folder=folder, identity=identity)
    if examples is not None:
        work.report_bad(examples)
    if not settings.validate_every or settings.steps % settings.validate_every:
        scores = held_out(settings.steps)
        if world.main:
            work.run.metrics.write(stage="denoiser_validation", step=settings.steps, **scores)
            work.run.hook.ldm_step(stage="denoiser_validation", step=settings.steps, logs=scores)
    weights = {k: v.contiguous() for k, v in task.weights().items()}
    if world.main:
        meta = artifacts.metadata(
            "model",
            recipe.denoiser.use,
            recipe.carried(),
            versions(recipe, work.catalog),
            identity=identity,
            steps=settings.steps,
            first_stage_sha256=artifacts.sha256(work.stage_url),
            class_names={k: list(v) for k, v in work.info.class_names.items()},
            averaged=task.is_averaged,
            **({"started": started.plain()} if started.source else {}),
        )
        work.own.write(artifacts.MODEL_FILE, save(weights, metadata=meta))
        for name, data in curves.pictures(work.run.metrics.read(), "denoiser").items():
            work.picture("denoiser", settings.steps, name, data)
    world.barrier()


def validation_of(work: Stages, task: DenoiserTask) -> HeldOutErrors:
    """What measures the model on held-out images."""
    recipe = work.recipe
    keys = ["image", *recipe.reads]
    data, is_held_out = work.held_out(keys)
    count = min(recipe.trainer.validate_images, len(data))
    weights = "averaged weights" if task.is_averaged else "the weights as they are"
    work.run.say(
        f"denoiser: will be validated on {count} {'held-out' if is_held_out else 'training'} images with {weights}"
        + ("" if is_held_out else f" ({work.without})")
    )
    settings = attrs.evolve(recipe.data, keep=0)
    return HeldOutErrors(task, Examples(data, recipe.image_size, settings, keys), recipe.reads, count, work.run.world)


def keep_averages(work: Stages, task: DenoiserTask, step: int, identity: str) -> None:
    """Store the power-function averages after `step`; every process must call it, the main one writes."""
    assert task.ema is not None
    averages = {w: _model_part(tensors) for w, tensors in task.ema.power_averages().items()}
    if work.run.world.main and task.ema.updates:
        work.own.note({posthoc.snapshot_name(step): None})
        posthoc.write_snapshot(work.out, step, task.ema.updates, averages, identity)


def _model_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a task's tensors those of its model, under the model's own names, on the CPU."""
    prefix = "model."
    return {k.removeprefix(prefix): v.cpu() for k, v in tensors.items() if k.startswith(prefix)}
