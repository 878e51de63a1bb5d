"""Training a run's model: the data, the conditioners' own learning, the loop, the model's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from safetensors.torch import save
from torch import Tensor

from ldm_core import storage
from ldm_core.config.structure import unstructure
from ldm_core.contracts.configs import DenoiserConfig, allowed_precisions, of, precision_among
from ldm_core.model.build import make_model, make_objective, sampling_site
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import versions
from ldm_core.training.averages import posthoc
from ldm_core.training.context import RunContext
from ldm_core.training.denoiser.evaluation import Evaluation
from ldm_core.training.denoiser.fit import fit_conditioners
from ldm_core.training.denoiser.previews import previewer
from ldm_core.training.denoiser.task import DenoiserTask
from ldm_core.training.denoiser.validation import HeldOutErrors
from ldm_core.training.feed.examples import Examples, arrange
from ldm_core.training.feed.loader import example_name
from ldm_core.training.finetune import start_model
from ldm_core.training.latents import cache as latent_cache
from ldm_core.training.loop import train


def train_denoiser(
    context: RunContext,
    identity: str,
    fitted: Mapping[str, Mapping[str, Any]],
    evaluation: Evaluation | None = None,
) -> None:
    """Train denoiser and conditioners on latents and write the model's file; `fitted`: see :func:`.fit.fit_early`.

    `evaluation` measures samples on the way, and the best step's weights get a file of their own.
    """
    recipe, run, stage = context.recipe, context.run, context.stage()
    model = make_model(recipe, context.catalog, stage)
    started = start_model(context, model)
    fit_conditioners(context, model, started, fitted)
    made = context.moments()
    data, wanted = context.paired(), [*(["image"] if made is None else []), *recipe.reads]
    examples = Examples(data, recipe.image_size, recipe.data, wanted, context.degraded) if wanted else None
    fetch: Any = examples if made is None else latent_cache.LatentExamples(made, examples)
    bad = None if examples is None else examples.dataset
    loader = context.loader("denoiser", fetch, arrange(data, recipe.data, recipe.image_size), fetch.keys, bad)
    model.to(run.world.device)
    objective = make_objective(recipe, context.catalog, sampling_site(recipe, stage))
    named = lambda place: example_name(data, made, place)  # noqa: E731
    task = DenoiserTask(model, objective, stage, recipe, run.world, name_of=named, say=run.say)
    if task.ema is not None and recipe.trainer.ema_power:
        task.snapshot = lambda step: keep_averages(context, task, step, identity)
    _say_how(context)
    held_out = validation_of(context, task)
    task.validate, task.preview = held_out, previewer(context, task)
    folder = context.checkpoints_of("denoiser")
    about = {"identity": identity, **({"started": started.plain()} if started.source else {})}

    def keep(weights: Mapping[str, Tensor], step: int, value: Mapping[str, float]) -> None:
        context.own.write(artifacts.BEST_FILE, _file(context, task, weights, steps=step, numbers=dict(value), **about))

    more = {} if evaluation is None else {"evaluate": evaluation.during(task, keep)}
    train(task, loader, recipe.trainer, run, folder=folder, identity=identity, **more)
    if examples is not None:
        context.report_bad(examples)
    _validate_at_the_end(context, held_out)
    _write(context, task, about)


def _say_how(context: RunContext) -> None:
    """Tell the user this recipe's surprises."""
    recipe = context.recipe
    asked = recipe.trainer.precision
    for part in recipe.conditioners:
        if asked not in (allowed := allowed_precisions(part.kind, part.config)):
            runs = precision_among(allowed, asked)
            context.run.say(f"denoiser: conditioner '{part.name}' runs in {runs}; its config allows no {asked}")
    for part in recipe.conditioners:
        if part.degradation is not None and part.made != "image" and part.made in context.dataset.keys:
            context.run.say(
                f"denoiser: degradation '{part.degradation.label}' makes no '{part.made}', as the data has its own"
            )
    several = context.run.world.size > 1 or recipe.trainer.accumulate > 1
    if several and of(DenoiserConfig, recipe.denoiser.config).dropout:
        context.run.say(
            "denoiser: its dropout draws for a whole micro-batch at once, so the result depends on the number of "
            "processes and micro-batches (without dropout it does not)"
        )


def _validate_at_the_end(context: RunContext, held_out: HeldOutErrors) -> None:
    """Measure after the last step, if the loop did not."""
    settings, run = context.recipe.trainer, context.run
    if settings.validate_every and not settings.steps % settings.validate_every:
        return
    run.say("denoiser: last validation ...")
    scores = held_out(settings.steps)
    if run.world.main:
        run.metrics.write(stage="denoiser_validation", step=settings.steps, **scores)
        run.hook.ldm_step(stage="denoiser_validation", step=settings.steps, logs=scores)


def _file(context: RunContext, task: DenoiserTask, weights: Mapping[str, Tensor], **about: Any) -> bytes:
    """The model's file, with these weights and words `about` them in its header."""
    recipe = context.recipe
    if context.info.palettes:  # in no header of models without
        about["palettes"] = {key: [list(row) for row in rows] for key, rows in context.info.palettes.items()}
    meta = artifacts.metadata(
        "model",
        recipe.denoiser.use,
        recipe.carried(),
        versions(recipe, context.catalog),
        first_stage_sha256=artifacts.sha256(context.stage_url),
        class_names={k: list(v) for k, v in context.info.class_names.items()},
        averaged=bool(task.averages),
        **about,
    )
    return save({k: v.contiguous() for k, v in weights.items()}, metadata=meta)


def _write(context: RunContext, task: DenoiserTask, about: Mapping[str, object]) -> None:
    """Write the model's file and the curves of its training; all processes must call it."""
    weights, steps = task.weights(), context.recipe.trainer.steps
    if context.run.world.main:
        _write_adapters(context, task, {k: v.contiguous() for k, v in weights.items()}, str(about["identity"]))
        file = _file(context, task, weights, steps=steps, **about)
        context.write_trained("denoiser", artifacts.MODEL_FILE, file, steps)
    context.run.world.barrier()


def _write_adapters(context: RunContext, task: DenoiserTask, weights: Mapping[str, Tensor], identity: str) -> None:
    """Write a file of each adapter that was trained alone, on weights that stayed; it can be added to other models."""
    recipe = context.recipe
    if recipe.trainer.train != "adapters":
        return
    storage.make_folder(storage.join(context.out, artifacts.ADAPTERS))
    for part, row in zip(recipe.adapters, recipe.carried()["adapters"], strict=True):
        tensors = {k.removeprefix(p): v for k, v in weights.items() if k.startswith(p := f"adapters.{part.key}.")}
        if not part.train or not tensors:
            continue
        meta = artifacts.metadata(
            "adapter",
            part.use,
            {key: value for key, value in row.items() if key in unstructure(part.config)},
            versions(recipe, context.catalog),
            name=part.name,
            identity=identity,
            steps=recipe.trainer.steps,
            base_sha256=recipe.trainer.init_sha256,
            averaged=bool(task.averages & {f"adapters.{part.key}.{k}" for k in tensors}),
        )
        url = context.own.write(artifacts.adapter_name(part.name), save(tensors, metadata=meta))
        context.run.say(f"adapter '{part.name}': {storage.shown(url)}")


def validation_of(context: RunContext, task: DenoiserTask) -> HeldOutErrors:
    """The function to measure the model on held-out images; say on which."""
    recipe = context.recipe
    keys = ["image", *recipe.reads]
    data, why_not = context.held_out(keys)
    count = min(recipe.trainer.validate_images, len(data))
    weights = "averaged weights" if task.is_averaged else "the weights as they are"
    context.run.say(
        f"denoiser: will be validated on {count} {'training' if why_not else 'held-out'} images with {weights}"
        + (f" ({why_not})" if why_not else "")
    )
    settings = attrs.evolve(recipe.data, keep=0, balance="")
    examples = Examples(data, recipe.image_size, settings, keys, context.degraded)
    cut = lambda step: context.run.hurries(step, recipe.trainer.steps)  # noqa: E731
    return HeldOutErrors(task, examples, recipe.reads, count, context.run.world, cut)


def keep_averages(context: RunContext, task: DenoiserTask, step: int, identity: str) -> None:
    """Store the power-function averages after `step`; every process must call it, the main one writes."""
    assert task.ema is not None
    averages = {w: _model_part(tensors) for w, tensors in task.ema.power_averages().items()}
    if context.run.world.main and task.ema.updates:
        context.own.note({posthoc.snapshot_name(step): None})
        posthoc.write_snapshot(context.out, step, task.ema.updates, averages, identity)


def _model_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a task's model, under the model's own names, on the CPU."""
    prefix = "model."
    return {k.removeprefix(prefix): v.cpu() for k, v in tensors.items() if k.startswith(prefix)}
