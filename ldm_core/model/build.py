"""A resolved recipe -> live objects, in dependency order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ldm_core.catalog import Catalog
from ldm_core.contracts import (
    EMPTY,
    ConditionerConfig,
    FirstStage,
    Guidance,
    Objective,
    PartAnswers,
    Sampler,
    Site,
    TimeGrid,
    configs,
)
from ldm_core.contracts.streams import mix_seed
from ldm_core.errors import ComponentError, ConfigError
from ldm_core.model import adapters as adapters_
from ldm_core.model.arithmetic import allowed_by, allowed_here
from ldm_core.model.budget import FAULTS, MOST_TENSORS, Budget, Exceeded
from ldm_core.model.conformance.breaches import Named, named
from ldm_core.model.conformance.first_batch import (
    Contracts,
    hold_kept_config,
    hold_parameterization,
    hold_schedule,
)
from ldm_core.model.diffusion import Model
from ldm_core.model.fill import seeded, unfilled
from ldm_core.model.guides import Guide, Guides
from ldm_core.model.parts import make
from ldm_core.model.steps import ScaledLatentsGrid
from ldm_core.model.tiles.tiling import current_tiling
from ldm_core.nn.recompute import recompute, recomputing
from ldm_core.recipe.check import site_of
from ldm_core.recipe.recipe import ConditionerPart, Part, Recipe


def make_first_stage(recipe: Recipe, catalog: Catalog) -> FirstStage:
    """The first stage with fresh weights, determined by the recipe's seed alone."""
    with seeded(mix_seed(recipe.seed, "first_stage")):
        site = Site(size=recipe.image_size, channels=recipe.image_channels, catalog=catalog)
        stage = make(recipe.first_stage, site, catalog)
    _hold_to(stage, FirstStage, recipe.first_stage)
    if (
        isinstance(stage.latent, type(recipe.first_stage.config.latent))
        and stage.latent != recipe.first_stage.config.latent
    ):
        raise ComponentError(
            f"first_stage '{recipe.first_stage.use}' says {recipe.first_stage.config.latent} in its config and "
            f"{stage.latent} once built; its plugin is at fault"
        )
    return stage


def _hold_to(thing: Any, contract: type, part: Part) -> None:
    if not isinstance(thing, contract):
        missing = [n for n in dir(contract) if not n.startswith("_") and not hasattr(thing, n)]
        raise ComponentError(
            f"{part.kind} '{part.use}' does not meet the contract {contract.__name__}: it lacks {', '.join(missing)}"
        )


def sampling_site(recipe: Recipe, stage: FirstStage) -> Site:
    """The site around the denoiser, with the first stage's `encode` (the mode) and `decode` as functions, which run in
    the arithmetic around them where the stage allows it. Gradients pass `decode` where its latents ask for them."""
    among = configs.allowed_precisions("first_stage", recipe.first_stage.config)

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        with allowed_here(images.device.type, among):
            return stage.latents(current_tiling().moments(stage, images))

    def decode(z: Tensor) -> Tensor:
        if recomputing():
            recompute(blocks() if (blocks := configs.of(PartAnswers, stage).recompute_blocks) else ())
        with allowed_here(z.device.type, among), torch.set_grad_enabled(torch.is_grad_enabled() and z.requires_grad):
            return current_tiling().decode(stage, z)

    return attrs.evolve(site_of(recipe), encode=encode, decode=decode)


def make_conditioner(recipe: Recipe, part: ConditionerPart, site: Site, catalog: Catalog) -> Any:
    """One conditioner with fresh weights, determined by the recipe's seed and its name alone."""
    with seeded(mix_seed(recipe.seed, "conditioner", part.name)):
        conditioner = make(part, site, catalog)
    if conditioner.spec != part.config.spec(site.latent):
        raise ComponentError(
            f"conditioner '{part.name}' says {part.config.spec(site.latent)} in its config and {conditioner.spec} "
            "once built; its plugin is at fault"
        )
    if configs.of(ConditionerConfig, part.config).draws and not _takes_streams(conditioner.encode):
        raise ComponentError(
            f"conditioner '{part.name}' says in its config that it draws noise, and its encode takes no `streams`; its "
            "plugin is at fault: def encode(self, batch, *, streams=None)"
        )
    return conditioner


def _takes_streams(encode: Callable[..., object]) -> bool:
    kinds = {name: parameter.kind for name, parameter in inspect.signature(encode).parameters.items()}
    return "streams" in kinds or inspect.Parameter.VAR_KEYWORD in kinds.values()


def make_model(recipe: Recipe, catalog: Catalog, stage: FirstStage) -> Model:
    """The model with fresh weights, determined by the recipe's seed alone; its frozen parts have no gradients."""
    return make_model_at(sampling_site(recipe, stage), recipe, catalog)


def make_model_at(site: Site, recipe: Recipe, catalog: Catalog) -> Model:
    """:func:`make_model` at a ready site, such as another model's with the same latents."""
    conditioners: dict[str, nn.Module] = {}
    for part in recipe.conditioners:
        conditioners[part.name] = conditioner = make_conditioner(recipe, part, site, catalog)
        conditioner.requires_grad_(part.train)
    with seeded(mix_seed(recipe.seed, "denoiser")):
        denoiser = make(recipe.denoiser, site, catalog)
    schedule, parameterization = (make(p, site, catalog) for p in (recipe.schedule, recipe.parameterization))
    model = Model(denoiser, schedule, parameterization, conditioners)
    with seeded(mix_seed(recipe.seed, "adapters")):
        adapters_.attach(model, recipe, site, catalog)
    model.precisions = allowed_by(recipe)
    model.draws = frozenset(c.name for c in recipe.conditioners if configs.of(ConditionerConfig, c.config).draws)
    for adapter in recipe.adapters:
        adapters_.fill(model, adapter)
    model.contracts = held = Contracts(recipe, catalog, site.latent)
    hold_kept_config(held.parts["schedule"], schedule, recipe.schedule.config)
    hold_schedule(held.parts["schedule"], schedule, held.latent.shape(site.size))
    hold_parameterization(held.parts["parameterization"], parameterization, schedule)
    if recipe.trainer.train == "adapters":
        for parameter in (*model.denoiser.parameters(), *model.conditioners.parameters()):  # type: ignore[attr-defined]
            parameter.requires_grad_(False)
    return model


@attrs.frozen
class SamplingParts:
    """The parts of a sampling run beside the model. `named`: their names in messages, if a catalog is known."""

    sampler: Sampler
    guidance: Guidance
    time_grid: TimeGrid
    named: Mapping[str, Named] = EMPTY
    guidances: Mapping[str, Guidance] = EMPTY
    """The guidance and those around it, by the names of their components."""


def make_sampling(recipe: Recipe, catalog: Catalog, site: Site) -> SamplingParts:
    """The recipe's sampler, guidance (with those around it, as one) and time grid."""
    site = attrs.evolve(site, parameterization=make(recipe.parameterization, site, catalog), catalog=catalog)
    names = {kind: named(getattr(recipe, kind), catalog) for kind in ("sampler", "guidance", "time_grid")}
    grid = make(recipe.time_grid, site, catalog)
    hold_kept_config(names["time_grid"], grid, recipe.time_grid.config)
    if recipe.sample.latent_scale != 1:
        grid = ScaledLatentsGrid(grid, recipe.sample.latent_scale)
    guides = [Guide(make(part, site, catalog), named(part, catalog)) for part in recipe.guidances]
    return SamplingParts(
        sampler=make(recipe.sampler, site, catalog),
        guidance=Guides(guides) if recipe.guides else guides[0].guidance,
        time_grid=grid,
        named=names,
        guidances={part.use: each.guidance for part, each in zip(recipe.guidances, guides, strict=True)},
    )


def make_objective(recipe: Recipe, catalog: Catalog, site: Site) -> Objective:
    """The recipe's objective with fresh weights, determined by the recipe's seed alone."""
    with seeded(mix_seed(recipe.seed, "objective")):
        return make(recipe.objective, site, catalog)


def count_parameters(recipe: Recipe, catalog: Catalog) -> Mapping[str, int]:
    """The parameters of the recipe's networks by part: ``first stage``, ``denoiser``, and each conditioner by its
    name. Counted without making any; nothing where a part needs memory to be made."""
    try:
        with torch.device("meta"), unfilled():
            stage = make_first_stage(recipe, catalog)
            model = make_model(recipe, catalog, stage)
    except FAULTS:
        return {}
    networks = {"first stage": stage, "denoiser": model.denoiser, **dict(model.conditioners.items())}
    return {
        name: sum(each.numel() for each in network.parameters())
        for name, network in networks.items()
        if isinstance(network, nn.Module)
    }


def require_room(recipe: Recipe, catalog: Catalog, memory: int) -> None:
    """:class:`ConfigError` if the recipe's networks have more parameters than fit into `memory` bytes, four of each
    (the weight, its gradient, the optimizer's two); counted without making any."""
    budget = Budget(memory // 16, MOST_TENSORS)
    try:
        with torch.device("meta"), budget, unfilled():
            stage = make_first_stage(recipe, catalog)
            make_model(recipe, catalog, stage)
    except Exceeded:
        if budget.made > MOST_TENSORS:
            what = f"more than {MOST_TENSORS:,} tensors, and no network has as many"
        else:
            what = (
                f"at least {budget.count:,} parameters, {16 * budget.count / 1e9:,.1f} GB with their gradients and the "
                f"optimizer's averages, and this machine has {memory / 1e9:,.1f} GB"
            )
        raise ConfigError(f"the recipe's networks have {what}; choose smaller ones") from None
    except FAULTS:  # a part that needs memory is made at its turn
        return
