"""How other programs sample by default: their scripts' settings, by the name of the codec that reads their weights.

Imports no torch.
"""

from __future__ import annotations

from typing import Any

from ldm_core.catalog import Catalog
from ldm_core.errors import ConfigError, clean, suggest
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.settings import with_settings


def like(recipe: Recipe, name: str, catalog: Catalog) -> Recipe:
    """`recipe` sampled as the scripts of another program do by default, by the name of its codec.

    A codec's config says it by ``conventions(plain recipe) -> settings of sampling``. :class:`ConfigError` where none
    of that name does, or its program knows no such model.
    """
    speaking = conventions_of(catalog)
    if name not in speaking:
        known = ", ".join(speaking) or "nothing that is installed knows any"
        raise ConfigError(f"like={clean(name, 60)}: no program of this name{suggest(name, speaking)} (known: {known})")
    settings = speaking[name](recipe.plain())
    if not settings:
        raise ConfigError(f"like={name}: its scripts sample no model like this one; choose sampler, guidance and grid")
    return with_settings(recipe, settings, catalog)


def conventions_of(catalog: Catalog) -> dict[str, Any]:
    """Of the installed codecs that know how their program samples, a function of a plain recipe by name."""
    found = {}
    for name in catalog.names("codec"):
        config = catalog.get("codec", name)[0].component.config
        if (said := getattr(config, "conventions", None)) is not None:
            found[name] = said
    return found


def steps_made(recipe: Recipe, steps: int) -> int:
    """How many steps the recipe's grid makes of `steps`, which it can make."""
    grid, table = recipe.time_grid.config, getattr(recipe.schedule.config, "table_steps", None)
    return len(grid.indices(table, steps)) if getattr(grid, "uneven", False) and table else steps


def described(recipe: Recipe, steps: int, name: str) -> dict[str, str]:
    """What a picture's metadata say of conventions: the program's `name`, steps that were made and not asked for, and
    how levels were found; nothing of what is usual."""
    made, levels = steps_made(recipe, steps), recipe.sample.levels
    said = {"like": name, "steps_made": "" if made == steps else str(made), "levels": levels * (levels != "rounded")}
    return {key: value for key, value in said.items() if value}


def in_words(recipe: Recipe, steps: int | None = None) -> str:
    """What a recipe samples with, on one line."""
    wanted, grid = steps or recipe.sample.steps, recipe.time_grid
    sampler, guidance = recipe.sampler, recipe.guidance
    eta, scale = getattr(sampler.config, "eta", None), getattr(guidance.config, "scale", None)
    made = steps_made(recipe, wanted)
    return ", ".join(
        (
            f"sampler {sampler.use}" + ("" if eta is None else f" (eta {eta:g})"),
            f"{made} steps of the time grid {grid.use}" + (f" (asked for {wanted})" if made != wanted else ""),
            f"guidance {guidance.use}" + ("" if scale is None else f" {scale:g}"),
            f"levels {recipe.sample.levels}",
        )
    )
