"""The recipe in a weights file -> its model, resolved; nothing of it reaches out. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import overlay
from ldm_core.contracts.values import EMPTY
from ldm_core.recipe.keys import DEFAULTS
from ldm_core.recipe.places import described, unnamed
from ldm_core.recipe.recipe import MixturePart, Part, Recipe
from ldm_core.recipe.resolve import resolve, resolve_part


def resolve_described(config: Mapping[str, Any], catalog: Catalog, given: Mapping[str, Any] = EMPTY) -> Recipe:
    """The recipe in a weights file -> a recipe, with the user's `given` values on top. No place named by the file is
    looked at (:mod:`ldm_core.recipe.places`); its data set stays as text, and cannot be read."""
    recipe = resolve(overlay(described(config, catalog), given), catalog)
    recorded = _recorded(config.get("dataset"))
    return recipe if recorded is None else attrs.evolve(recipe, dataset=recorded)


def without_unnamed(recipe: Recipe, catalog: Catalog) -> Recipe:
    """`recipe` without a guidance that lacks a second model or its weights; its use asks for them."""
    if any(unnamed(part.config) for part in recipe.guides):
        recipe = attrs.evolve(recipe, guides=tuple(part for part in recipe.guides if not unnamed(part.config)))
    if not unnamed(recipe.guidance.config):
        return recipe
    return attrs.evolve(recipe, guidance=resolve_part("guidance", DEFAULTS["guidance"], recipe, catalog))


def _recorded(value: Any) -> Part | None:
    """A data set as a file tells of it."""
    rows = value if isinstance(value, list | tuple) else [value]
    if not rows or not all(isinstance(row, Mapping) and isinstance(row.get("use"), str) for row in rows):
        return None
    parts = tuple(
        Part(
            kind="dataset",
            use=row["use"],
            config=MappingProxyType({key: each for key, each in row.items() if key not in ("use", "weight")}),
        )
        for row in rows
    )
    if not isinstance(value, list | tuple):
        return parts[0]
    weights = [row["weight"] for row in rows if isinstance(row.get("weight"), float)]
    known = tuple(weights) if len(weights) == len(rows) else ()
    return MixturePart(kind="dataset", use="mixture", config=None, members=parts, weights=known)
