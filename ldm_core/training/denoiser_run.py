"""Training a run's model: the data, the conditioners' own learning, the loop, the model's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from ldm_core import artifacts, storage
from ldm_core.build import make_model, make_objective, sampling_site
from ldm_core.recipe import versions
from ldm_core.streams import mix_seed
from ldm_core.training import curves, latents
from ldm_core.training.denoiser_task import DenoiserTask
from ldm_core.training.loader import Examples, Loader, arrange
from ldm_core.training.loop import train

if TYPE_CHECKING:
    from ldm_core.training.stages import Stages


def train_denoiser(work: Stages, identity: str) -> None:
    """Train denoiser and conditioners of `work` on latents and write the model's file."""
    recipe, settings, world, stage = work.recipe, work.recipe.trainer, work.run.world, work.stage()
    model = make_model(recipe, work.catalog, stage)
    fit_conditioners(work, model)
    made = work.moments()
    fetch: Any
    data, keys = work.paired(), recipe.reads
    if made is None:
        examples = Examples(data, recipe.image_size, recipe.data, ["image", *keys])
        fetch, geometry = examples.__getitem__, examples.keys
    else:
        beside = Examples(data, recipe.image_size, recipe.data, keys) if keys else None
        fetch = latents.LatentExamples(made, beside)
        geometry = fetch.keys
    loader = Loader(
        fetch,
        arrange(data, recipe.data),
        geometry,
        images_per_step=settings.images_per_step,
        accumulate=settings.accumulate,
        steps=settings.steps,
        world=world,
        seed=mix_seed(recipe.seed, "denoiser"),
        workers=recipe.data.workers,
    )
    model.to(world.device)
    objective = make_objective(recipe, work.catalog, sampling_site(recipe, stage))
    task = DenoiserTask(model, objective, stage, recipe, world)
    folder = storage.join(work.out, "checkpoints", "denoiser")
    train(task, loader, settings, work.run, folder=folder, identity=identity)
    weights = {k: v.contiguous() for k, v in task.weights().items()}
    if world.main:
        meta = artifacts.metadata(
            "model",
            recipe.denoiser.use,
            recipe.carried(),
            versions(recipe, work.catalog),
            identity=identity,
            first_stage_sha256=artifacts.sha256(work.stage_url),
            class_names={k: list(v) for k, v in work.info.class_names.items()},
            averaged=task.ema is not None,
        )
        storage.atomic_write(work.model_url, save(weights, metadata=meta))
        for name, data in curves.pictures(work.run.metrics.read(), "denoiser").items():
            work.picture("denoiser", settings.steps, name, data)
    world.barrier()


def fit_conditioners(work: Stages, model: Any) -> None:
    """Let conditioners learn from the annotations (a tokenizer), where nothing was learned yet."""
    for part in work.recipe.conditioners:
        fit = getattr(model.conditioners[part.name], "fit", None)
        if fit is not None:
            view = Examples(work.paired(), work.recipe.image_size, work.recipe.data, part.config.reads).dataset
            fit(view[i] for i in range(len(view)))
