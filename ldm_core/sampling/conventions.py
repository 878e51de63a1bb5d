"""Conventions of other programs: their scripts' default settings, by the name of the codec for their weights.

Imports no torch.
"""

from __future__ import annotations

from typing import Any

from ldm_core.catalog import Catalog
from ldm_core.contracts.configs import CodecConfig, GuidanceConfig, SamplerConfig, ScheduleConfig, TimeGridConfig, of
from ldm_core.errors import ConfigError, clean, suggest
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.settings import with_settings


def like(recipe: Recipe, name: str, catalog: Catalog) -> Recipe:
    """Give `recipe` the default sampling settings of another program's scripts, by the name of its codec.

    A codec's config has them as ``conventions(plain recipe) -> settings``. :class:`ConfigError` for a name without
    them, or for a program without such a model.
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
    """Collect the conventions of the installed codecs: name -> function of a plain recipe."""
    found = {}
    for name in catalog.names("codec"):
        config = catalog.get("codec", name)[0].component.config
        if (said := of(CodecConfig, config).conventions) is not None:
            found[name] = said
    return found


def steps_made(recipe: Recipe, steps: int) -> int:
    """Count the steps that the recipe's grid makes when asked for `steps`."""
    grid, table = of(TimeGridConfig, recipe.time_grid.config), of(ScheduleConfig, recipe.schedule.config).table_steps
    return len(grid.indices(table, steps)) if grid.uneven and table else steps


def described(recipe: Recipe, steps: int, name: str) -> dict[str, str]:
    """Describe conventions for a picture's metadata: the program's `name`, the steps if more than asked for, and the
    rounding of levels; nothing for the usual ones."""
    made, levels = steps_made(recipe, steps), recipe.sample.levels
    said = {"like": name, "steps_made": "" if made == steps else str(made), "levels": levels * (levels != "rounded")}
    return {key: value for key, value in said.items() if value}


def in_words(recipe: Recipe, steps: int | None = None) -> str:
    """Name a recipe's sampler, grid and guidance on one line."""
    wanted, grid = steps or recipe.sample.steps, recipe.time_grid
    sampler, guidance = recipe.sampler, recipe.guidance
    eta, scale = of(SamplerConfig, sampler.config).eta, of(GuidanceConfig, guidance.config).scale
    made = steps_made(recipe, wanted)
    return ", ".join(
        (
            f"sampler {sampler.use}" + ("" if eta is None else f" (eta {eta:g})"),
            f"{made} steps of the time grid {grid.use}" + (f" (asked for {wanted})" if made != wanted else ""),
            f"guidance {guidance.use}" + ("" if scale is None else f" {scale:g}"),
            f"levels {recipe.sample.levels}",
        )
    )
