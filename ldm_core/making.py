"""One part of a resolved recipe -> a live object. Imports no torch: a part brings its own, so data comes without."""

from __future__ import annotations

from typing import Any

import attrs

from ldm_core.catalog import Catalog
from ldm_core.contracts import DataInfo, Site
from ldm_core.errors import ComponentError
from ldm_core.recipe import Part, Recipe


def make(part: Part, site: Site, catalog: Catalog) -> Any:
    """Build one component: import its factory and call ``factory(config, site)``."""
    return factory_of(part, catalog)(part.config, site)


def factory_of(part: Part, catalog: Catalog) -> Any:
    """Import a component's factory; :class:`ComponentError` where that fails."""
    entry, _ = catalog.get(part.kind, part.use)
    try:
        return entry.component.load()
    except Exception as error:  # whatever a plugin's module raises when it is imported
        raise ComponentError(
            f"{part.kind} '{part.use}' of {entry.distribution} does not import: {type(error).__name__}: {error}"
        ) from error


def make_dataset(recipe: Recipe, catalog: Catalog, **changes: Any) -> Any:
    """The recipe's data set (torch-free); `changes` replace fields of its config, e.g. ``split="val"``."""
    part = recipe.dataset
    if changes:
        part = attrs.evolve(part, config=attrs.evolve(part.config, **changes))
    return make(part, Site(size=recipe.image_size, channels=recipe.image_channels), catalog)


def data_info(dataset: Any) -> DataInfo:
    """What a data set offers."""
    return DataInfo(keys=dataset.keys, classes=dataset.classes, class_names=dataset.class_names)
