"""A codec's values as a complete recipe, and as a module by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import ModelWeights
from ldm_core.contracts.site import Site
from ldm_core.contracts.values import CondSpec, LatentSpec
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe.check import model_misfits
from ldm_core.recipe.description import without_unnamed
from ldm_core.recipe.places import described_by
from ldm_core.recipe.recipe import ConditionerPart, Part, Recipe
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.sizes import image_misfits

if TYPE_CHECKING:
    from torch import Tensor, nn


DROPOUT = 0.1
"""Share of examples that a published model is taken to have seen without a conditioner, where nothing is said."""


def recipe_of(weights: ModelWeights, catalog: Catalog) -> Recipe:
    """The complete recipe: parts by their weights, all else by default; sampling as is usual where nothing is said.

    No data set plays a role: class counts come from the weights. Raises ConfigError with every misfit of a model.
    """
    with described_by("these weights"):
        return _recipe_of(weights, catalog)


def _recipe_of(weights: ModelWeights, catalog: Catalog) -> Recipe:
    plain = {key: value for key, value in weights.recipe.items() if key != "scale"}
    if isinstance(stage := plain.get("first_stage"), Mapping):  # its weights are here, and in no other file
        plain["first_stage"] = {key: value for key, value in stage.items() if key not in ("weights", "sha256")}
    if "sampler" not in plain and "ddim" in catalog.names("sampler"):
        plain["sampler"] = "ddim"
    recipe = resolve({**plain, "guidance": plain.get("guidance", "none")}, catalog)
    if weights.model is None or weights.first_stage is None:
        return recipe  # a part by itself: what is around it is nobody's
    recipe = attrs.evolve(recipe, conditioners=tuple(map(_as_trained, recipe.conditioners, _rows(plain))))
    specs = [c.config.spec(recipe.first_stage.config.latent) for c in recipe.conditioners]
    if "guidance" not in plain and "cfg" in catalog.names("guidance") and any(s.crossattn or s.vector for s in specs):
        guided = attrs.evolve(recipe, guidance=resolve({"guidance": "cfg"}, catalog).guidance)
        recipe = recipe if list(model_misfits(guided)) else guided
    if problems := [*model_misfits(without_unnamed(recipe, catalog)), *image_misfits(recipe)]:
        raise ConfigError(problems)
    return recipe


def _rows(plain: Mapping[str, Any]) -> Sequence[Any]:
    rows = plain.get("conditioners") or ()
    return (rows,) if isinstance(rows, str | Mapping) else rows


def _as_trained(part: ConditionerPart, plain: Any) -> ConditionerPart:
    """A conditioner as published models were trained: where nothing is said, a tenth of the examples went without."""
    said = isinstance(plain, Mapping) and "dropout" in plain
    return part if said else attrs.evolve(part, dropout=DROPOUT)


def build_part(weights: ModelWeights, catalog: Catalog) -> nn.Module:
    """The first stage, denoiser or conditioner held by `weights`, filled strictly, in eval mode.

    Raises CheckpointError for names or shapes other than those of the recipe's part.
    """
    from ldm_core.model.budget import held_to
    from ldm_core.model.build import make_first_stage
    from ldm_core.model.fill import load_weights, unfilled
    from ldm_core.model.parts import make

    if weights.adapter is not None:
        raise CheckpointError("these weights are an adapter's, which acts in a model; add it to one")
    recipe = recipe_of(weights, catalog)
    if weights.model is None:
        if weights.first_stage is None:
            raise CheckpointError("these weights hold nothing")
        with held_to(shapes_of(weights.first_stage), "first stage"), unfilled():
            built: Any = make_first_stage(recipe, catalog)
        load_weights(built, dict(weights.first_stage), "first stage")
        return frozen(built)
    latent = weights.latent or recipe.first_stage.config.latent
    site = Site(size=_size_of(recipe, latent), channels=recipe.image_channels, latent=latent)
    part, prefix, kind = _single_part(weights, recipe)
    if kind == "denoiser":
        specs = {c.name: c.config.spec(latent) for c in recipe.conditioners}
        site = attrs.evolve(site, cond=weights.cond if weights.cond is not None else CondSpec.merge(specs))
    with held_to(shapes_of(weights.model), kind), unfilled():
        built = make(part, site, catalog)
    load_weights(built, {k.removeprefix(prefix): v for k, v in weights.model.items() if k.startswith(prefix)}, kind)
    return frozen(built)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _single_part(weights: ModelWeights, recipe: Recipe) -> tuple[Part, str, str]:
    assert weights.model is not None
    if any(name.startswith("denoiser.") for name in weights.model):
        return recipe.denoiser, "denoiser.", "denoiser"
    if not recipe.conditioners:
        raise CheckpointError("these weights hold neither a denoiser nor a conditioner that their recipe names")
    name = recipe.conditioners[0].name
    return recipe.conditioners[0], f"conditioners.{name}.", f"conditioner '{name}'"


def _size_of(recipe: Recipe, latent: LatentSpec) -> tuple[int, ...]:
    """The image size, made to fit latents that are not those of the recipe's own first stage."""
    return tuple(
        max(stride, size // stride * stride) for size, stride in zip(recipe.image_size, latent.stride, strict=True)
    )


def frozen(module: Any) -> Any:
    """`module` in eval mode, without gradients."""
    return module.eval().requires_grad_(False)
