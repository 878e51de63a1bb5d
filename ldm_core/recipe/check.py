"""Do the parts of a recipe fit together? Answered from configs alone, before a weight is allocated, without torch."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ldm_core.contracts import (
    SIZE_KEYS,
    AdapterConfig,
    ConditionerConfig,
    CondSpec,
    Config,
    DataInfo,
    DenoiserConfig,
    FirstStageConfig,
    GuidanceConfig,
    ObjectiveConfig,
    ParameterizationConfig,
    SamplerConfig,
    ScheduleConfig,
    Site,
    StageObjectiveConfig,
    TimeGridConfig,
    configs,
)
from ldm_core.contracts.conditioning import unaccepted
from ldm_core.errors import ConfigError, quoted, suggest
from ldm_core.launch.cores import cores as open_cores
from ldm_core.recipe.deepspeed import misfits as engine_misfits
from ldm_core.recipe.recipe import MixturePart, Part, Recipe
from ldm_core.recipe.rows import degradation_misfits, trait_misfits
from ldm_core.recipe.settings import MOST_PIXELS, balance_misfits, evaluation_misfits, precision_misfits


def check(recipe: Recipe, info: DataInfo | None = None) -> None:
    """Raise :class:`ConfigError` with one line per misfit: both parts, both numbers and the fix.

    `info`, the description of the data, adds the check of the keys read by conditioners.
    """
    problems = list(misfits(recipe, info))
    if problems:
        raise ConfigError(problems)


def site_of(recipe: Recipe) -> Site:
    """The denoiser's site: image size, latents and merged conditioning.

    Raises ValueError, naming both conditioners, if their bundles do not merge.
    """
    latent = recipe.first_stage.config.latent
    specs = {c.name: c.config.spec(latent) for c in recipe.conditioners}
    return Site(size=recipe.image_size, channels=recipe.image_channels, latent=latent, cond=CondSpec.merge(specs))


def misfits(recipe: Recipe, info: DataInfo | None = None) -> Iterable[str]:
    """One line for each misfit between two parts."""
    # The further misfits of a conditioner with missing data follow from this one: leave them out.
    asked = set(recipe.asked(info.keys)) if info is not None and info.keys else set()
    lost = [
        f"conditioner '{c.name}': "
        for c in recipe.conditioners
        if info is not None and not all(map(info.offers, asked.intersection(c.config.reads)))
    ]
    yield from (line for line in _images(recipe) if not line.startswith(tuple(lost)))
    yield from _conditioning(recipe)
    yield from (*diffusion_misfits(recipe), *trait_misfits(recipe))
    yield from _training(recipe)
    yield from data_misfits(recipe)
    if info is not None:
        yield from _data(recipe, info)


def model_misfits(recipe: Recipe) -> Iterable[str]:
    """One line for each misfit between two parts needed for sampling: neither data nor training."""
    yield from _images(recipe, datasets=False)
    yield from _conditioning(recipe)
    yield from diffusion_misfits(recipe)


def _own(path: str, config: object, site: Site) -> Iterable[str]:
    for line in configs.of(Config, config).check(site):
        yield f"{path}: {line}"


def _images(recipe: Recipe, *, datasets: bool = True) -> Iterable[str]:
    stage = recipe.first_stage
    channels = stage.image_channels or configs.of(FirstStageConfig, stage.config).image_channels
    if channels is not None and channels != recipe.image_channels:
        yield (
            f"first_stage '{stage.label}' takes {channels} image channels and the recipe has "
            f"image_channels: {recipe.image_channels}; set image_channels={channels}"
        )
    try:
        stage.config.latent.shape(recipe.image_size)
    except ValueError as error:
        yield f"image_size: {error} (first_stage '{stage.label}')"
    plain_site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=stage.config.latent)
    yield from _own("first_stage", stage.config, plain_site)
    named = configs.of(Config, stage.config).precisions
    if named and "fp32" not in named:
        yield (
            f"first_stage '{stage.label}': its config names {' and '.join(named)} alone in `precisions`, and every "
            "first stage runs in fp32 if another arithmetic is asked for; its plugin is at fault: add fp32 there, or "
            "choose another first stage"
        )
    for i, data in enumerate(recipe.datasets if datasets else ()):
        yield from _own("dataset" if data is recipe.dataset else f"dataset[{i}]", data.config, plain_site)
    for part in recipe.conditioners:
        yield from _own(f"conditioner '{part.name}'", part.config, plain_site)
    yield from degradation_misfits(recipe)


def _conditioning(recipe: Recipe) -> Iterable[str]:
    denoiser = recipe.denoiser
    latent = recipe.first_stage.config.latent
    accepts = configs.of(DenoiserConfig, denoiser.config).accepts
    others = [configs.of(GuidanceConfig, part.config).accepts for part in recipe.guidances]
    others += [configs.of(AdapterConfig, part.config).accepts for part in recipe.adapters]
    others.append(configs.of(ObjectiveConfig, recipe.objective.config).accepts)
    accepting = [some for some in (accepts, *others) if some is not None]
    extras, tokens = {name for a in accepting for name in a.extras}, {name for a in accepting for name in a.tokens}
    for part in recipe.conditioners:
        spec = part.config.spec(latent)
        for slot in ("crossattn", "vector", "concat", "residuals"):
            if getattr(spec, slot) and not getattr(accepts, slot):
                yield (
                    f"conditioner '{part.name}' writes '{slot}' and denoiser '{denoiser.label}' does "
                    f"not use it; choose another denoiser or conditioner"
                )
        for what, it, written, taken in (
            ("extra", "it", spec.extras, extras), ("tokens", "them", spec.tokens, tokens)
        ):  # fmt: skip
            for name in written:
                if name not in taken:
                    known = f" (they take: {', '.join(sorted(taken))})" if taken else ""
                    yield (
                        f"conditioner '{part.name}' writes the {what} '{name}' and no denoiser, guidance, adapter or "
                        f"objective of the recipe takes {it}{suggest(name, taken)}{known}; add the part that reads "
                        f"{it}, or drop '{part.name}'"
                    )
    try:
        site = site_of(recipe)
        latent.shape(recipe.image_size)
    except ValueError as error:
        if "divisible" not in str(error):
            yield str(error)
        return
    yield from _largest(recipe)
    yield from _own(f"denoiser '{denoiser.label}'", denoiser.config, site)
    for other in (*recipe.guidances, recipe.sampler, recipe.objective, *recipe.adapters, *recipe.metrics):
        yield from _own(f"{other.kind} '{other.label}'", other.config, site)


def _largest(recipe: Recipe) -> Iterable[str]:
    """The image size against the largest latents that the denoiser takes."""
    latent, most = recipe.first_stage.config.latent, configs.of(DenoiserConfig, recipe.denoiser.config).max_size
    grid = latent.shape(recipe.image_size)[1:]
    if most is None or all(cells <= largest for cells, largest in zip(grid, most, strict=True)):
        return
    pixels = [largest * stride for largest, stride in zip(most, latent.stride, strict=True)]
    yield (
        f"image_size: its latents of {list(grid)} are larger than denoiser '{recipe.denoiser.label}' takes, "
        f"{list(most)} at most; give {pixels} or smaller, or choose a denoiser for larger ones"
    )


def diffusion_misfits(recipe: Recipe) -> Iterable[str]:
    """One line for each misfit among schedule, parameterization, time grid and guidance."""
    schedule, param, grid = recipe.schedule, recipe.parameterization, recipe.time_grid
    levels = configs.of(ScheduleConfig, schedule.config)
    if configs.of(ParameterizationConfig, param.config).needs_terminal_alpha and levels.zero_terminal_alpha:
        yield (
            f"parameterization '{param.label}' divides by alpha, which is 0 at the end of schedule "
            f"'{schedule.label}'; set parameterization=v (or x0)"
        )
    table = levels.table_steps
    objective = recipe.objective
    if table is None and configs.of(ObjectiveConfig, objective.config).needs_table:
        yield (
            f"objective '{objective.label}' with these settings is defined on the levels of a table, "
            f"and schedule '{schedule.label}' is continuous; set objective.elbo_weight=0 and "
            "objective.learn_logvar=false, or choose a table schedule such as vp"
        )
    if line := configs.of(TimeGridConfig, grid.config).problem(table, recipe.sample.steps):
        yield f"time_grid '{grid.label}' with schedule '{schedule.label}': {line}"
    yield from (line for part in recipe.guidances for line in _guidance(recipe, part))


def sampling_misfits(recipe: Recipe) -> Iterable[str]:
    """One line for each misfit of a trained model's guidance, sampler, time grid and adapters."""
    yield from (line for part in recipe.guidances for line in _guidance(recipe, part))
    yield from (*_quantized(recipe), *trait_misfits(recipe))
    try:
        site = site_of(recipe)
    except ValueError:  # said of the model
        return
    for part in (*recipe.guidances, recipe.sampler, recipe.time_grid, *recipe.adapters):
        yield from _own(f"{part.kind} '{part.label}'", part.config, site)


def _quantized(recipe: Recipe) -> Iterable[str]:
    """The rule for quantising the estimates: one of two, and for the published one a sampler aware of it."""
    settings, sampler = recipe.sample, recipe.sampler
    if settings.quantize_x0 and settings.project_x0:
        yield "sample.quantize_x0 and sample.project_x0 are both set; they differ in the noise, choose one"
    elif settings.quantize_x0 and not configs.of(SamplerConfig, sampler.config).quantizes:
        yield (
            f"sample.quantize_x0: sampler '{sampler.label}' takes no noise apart from the estimate; use "
            "ddim, plms or ddpm, or sample.project_x0=true, which any sampler takes"
        )


def _guidance(recipe: Recipe, guidance: Part) -> Iterable[str]:
    """The needs of a guidance of the conditioners: the ones it names, and a trained null."""
    answers = configs.of(GuidanceConfig, guidance.config)
    shown = f"guidance '{guidance.label}'"
    for name in answers.branch_options:
        if name not in recipe.accepted_options:
            yield f"{shown} sets the option '{name}', {unaccepted(name, recipe.accepted_options)}"
    known = {c.name: c for c in recipe.conditioners}
    for name in answers.conditioners:
        part = known.get(name)
        if part is None:
            there = ", ".join(known) or "none"
            yield f"{shown} names conditioner '{name}', which the recipe does not have{suggest(name, known)}" + (
                f" (conditioners: {there})"
            )
        elif not configs.of(ConditionerConfig, part.config).droppable:
            yield (
                f"{shown} names conditioner '{name}', which has no null: its config says that it is not droppable; "
                "leave it out of the guidance"
            )
        elif not part.dropout and not recipe.trainer.joint_dropout:
            yield (
                f"{shown} needs an estimate without conditioner '{name}', which is never dropped in training; train "
                f"with conditioners.{name}.dropout=0.1, or leave it out of the guidance"
            )
    if answers.needs_null:
        if not recipe.conditioners:
            yield (
                f"guidance '{guidance.label}' compares with and without a condition, and the recipe "
                "has no conditioner; add one (`conditioners=NAME`) or set guidance=none"
            )
            return
        droppable = [c for c in recipe.conditioners if configs.of(ConditionerConfig, c.config).droppable]
        if not droppable:
            yield (
                f"guidance '{guidance.label}' compares with and without a condition, and "
                f"conditioner '{recipe.conditioners[0].name}' has no null: its config says that it is not droppable; "
                "change that, or set guidance=none"
            )
        elif not recipe.trainer.joint_dropout and not any(c.dropout for c in droppable):
            first = droppable[0].name
            yield (
                f"guidance '{guidance.label}' needs an estimate without conditions, and no conditioner "
                f"is ever dropped in training; set conditioners.{first}.dropout=0.1 (or trainer.joint_dropout=0.1), "
                "or guidance=none"
            )


def _training(recipe: Recipe) -> Iterable[str]:
    for part in (recipe.denoiser, *recipe.adapters, *((recipe.first_stage,) if recipe.trains_stage else ())):
        section = "first_stage_trainer" if part is recipe.first_stage else "trainer"
        asked, named = getattr(recipe, section).precision, f"{part.kind} '{part.label}'"
        yield from precision_misfits(section, asked, part.config, named)
    if recipe.first_stage_trainer.zero == 3:
        yield (
            "first_stage_trainer.zero: 3 divides the weights themselves, and losses of a first stage take gradients "
            "at whole ones; set first_stage_trainer.zero=2"
        )
    for name in ("trainer", "first_stage_trainer"):
        section = getattr(recipe, name)
        yield from engine_misfits(section, name)
        if section.images_per_step % section.accumulate:
            yield (
                f"{name}.images_per_step: {section.images_per_step} is not divisible by {name}.accumulate "
                f"{section.accumulate}; use a multiple of it"
            )
    if recipe.trainer.train == "adapters":
        if not any(part.train for part in recipe.adapters):
            fixed = ", adapters.NAME.train=true" if recipe.adapters else " in the recipe, adapters=[NAME]"
            yield f"trainer.train: 'adapters' needs one{fixed}; or set trainer.train=all"
        if not recipe.trainer.init_from:
            yield (
                "trainer.train: 'adapters' leaves the model's own weights as they are, and fresh ones draw nothing; "
                "give trained ones with trainer.init_from=RUN, or set trainer.train=all"
            )
    for part in recipe.guidances:
        if keys := configs.of(GuidanceConfig, part.config).reads:
            yield f"guidance '{part.label}' reads '{keys[0]}' of each sampled image; name it when sampling, not here"
    metrics = {f"metric '{part.label}'": part.config for part in recipe.metrics}
    yield from evaluation_misfits(recipe.trainer, metrics, set(recipe.reads).difference(SIZE_KEYS))
    yield from _objective(recipe)


def _objective(recipe: Recipe) -> Iterable[str]:
    """The objective of a first stage that is to be trained, beside the stage, the images and the steps."""
    part, stage = recipe.stage_objective, recipe.first_stage
    if not recipe.trains_stage:
        return
    site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=stage.config.latent)
    yield from _own("stage_objective", part.config, site)
    answers = configs.of(StageObjectiveConfig, part.config)
    for line in answers.misfits(stage.config, site, recipe.first_stage_trainer.steps):
        yield f"stage_objective.{line}"
    for i, other in enumerate(recipe.auxiliary_losses):
        yield from _own(f"auxiliary_losses[{i}]", other.config, site)


def remarks(recipe: Recipe) -> Iterable[str]:
    """One line for each allowed setting without effect, or with one seldom intended."""
    if recipe.trains_stage:
        yield from configs.of(FirstStageConfig, recipe.first_stage.config).remarks()
        answers = configs.of(StageObjectiveConfig, recipe.stage_objective.config)
        yield from answers.remarks(recipe.first_stage.config, recipe.first_stage_trainer.steps)
    if recipe.metrics and not recipe.trainer.evaluate_every:
        yield "metrics: none is measured, as trainer.evaluate_every is 0; set it to 1000, say"
    if recipe.data.workers > (cores := open_cores()):
        shared = f"{recipe.data.workers} loader processes share {cores} core{'s' if cores > 1 else ''}"
        yield f"data.workers: {shared}; more than one a core makes loading slower"


def data_misfits(recipe: Recipe) -> Iterable[str]:
    """One line for each misfit of the settings of `data` with each other and with the parts."""
    data = recipe.data
    if data.crop == "random" and data.fit == "pad":
        yield "data.crop: random cuts need data.fit=crop, it is pad; set one of them otherwise"
    if data.crop == "center" and data.crop_scale != 1:
        yield f"data.crop_scale: {data.crop_scale} is for random cuts; set data.crop=random, or leave it out"
    if not data.buckets:
        return
    parts = [part for part in recipe.parts() if configs.of(Config, part.config).fixed_size]
    for part in parts:
        yield (
            f"{part.kind} '{part.label}' is built for one image size, and data.buckets asks for "
            f"{1 + len(data.buckets)}; leave data.buckets out, or choose another {part.kind}"
        )
    said = {*_images(recipe), *_conditioning(recipe), *_objective(recipe)}
    for i, size in enumerate(data.buckets):
        if min(size) < 1 or max(size) > MOST_PIXELS:
            yield f"data.buckets[{i}]: expected [height, width] in pixels, got {quoted(list(size))}"
            continue
        if size == recipe.image_size or size in data.buckets[:i]:
            yield f"data.buckets[{i}]: {list(size)} is there twice (image_size is one of the sizes); leave it out"
            continue
        other = attrs.evolve(recipe, image_size=size)
        for line in (*_images(other), *_conditioning(other), *_objective(other)):
            if line not in said:
                yield f"data.buckets[{i}] {list(size)}: {line.removeprefix('image_size: ')}"


def _data(recipe: Recipe, info: DataInfo) -> Iterable[str]:
    offered = ", ".join(info.keys)
    where = f"dataset '{recipe.dataset.label}'"
    if "image" not in info.keys:
        yield f"{where} has no images (it offers: {offered})"
    asked = recipe.asked(info.keys)
    for part in recipe.conditioners:
        for key in (key for key in part.config.reads if key in asked):
            if key in info.lacks and not isinstance(recipe.dataset, MixturePart):
                yield (
                    f"conditioner '{part.name}' reads '{key}', which {where} does not offer (it offers: {offered}): "
                    f"{info.lacks[key]}, or drop the conditioner"
                )
            elif key in info.lacks:
                yield (
                    f"conditioner '{part.name}' reads '{key}', which {where} does not offer: {info.lacks[key]} (it "
                    f"offers: {offered}); leave out what has none, or drop the conditioner"
                )
            elif not info.offers(key):
                yield (
                    f"conditioner '{part.name}' reads '{key}', which {where} does not offer (it offers: {offered}); "
                    f"say where the data has it, such as dataset.read='{{{key}: title}}', or drop the conditioner"
                )
    yield from balance_misfits(recipe.data, where, info)
    yield from class_misfits(recipe, info)


def class_misfits(recipe: Recipe, info: DataInfo) -> Iterable[str]:
    """One line for each conditioner built for fewer classes than the data has."""
    for part in recipe.conditioners:
        count = configs.of(ConditionerConfig, part.config).classes
        for key in part.config.reads if isinstance(count, int) else ():
            if key in info.classes and info.classes[key] > count > 0:
                yield (
                    f"conditioner '{part.name}' has classes: {count} and the data's '{key}' has {info.classes[key]}; "
                    f"set conditioners.{part.name}.classes={info.classes[key]}"
                )


def require(recipe: Recipe, info: DataInfo | None = None) -> Site:
    """:func:`check`, then the denoiser's site."""
    check(recipe, info)
    try:
        return site_of(recipe)
    except ValueError as error:
        raise ConfigError(str(error)) from None
