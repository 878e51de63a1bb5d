"""One part of a resolved recipe -> a live object. Imports no torch: a part brings its own, so data comes without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import unstructure
from ldm_core.contracts import ConditionerConfig, DataInfo, DatasetAnswers, DatasetConfig, Site, configs
from ldm_core.errors import ComponentError, DataError, NoSplit
from ldm_core.recipe.recipe import MixturePart, Part, Recipe
from ldm_core.storage.cache import DataCache


def make(part: Part, site: Site, catalog: Catalog) -> Any:
    """Build one component: import its factory and call ``factory(config, site)``."""
    from ldm_core.model.conformance.breaches import inside, named

    factory = factory_of(part, catalog)
    with inside(named(part, catalog), "the factory"):
        return factory(part.config, site)


def factory_of(part: Part, catalog: Catalog) -> Any:
    """Import a component's factory; :class:`ComponentError` if the import fails."""
    entry, _ = catalog.get(part.kind, part.use)
    try:
        return entry.component.load()
    except Exception as error:  # whatever a plugin's module raises when it is imported
        raise ComponentError(
            f"{part.kind} '{part.use}' of {entry.distribution} does not import: {type(error).__name__}: {error}"
        ) from error


def make_dataset(recipe: Recipe, catalog: Catalog, like: DataInfo | None = None, **changes: Any) -> Any:
    """The recipe's data set (torch-free); `changes` replace fields of its config, e.g. ``split="val"``.

    Of several mixed ones, `changes` leave out those without such a field in their config and those left without data by
    the change (NoSplit); the same if none remains. The examples of the others then take turns, so the first few are of
    all of them. `like`, the description of the training data, keeps the numbers of its classes.
    """
    cache = DataCache(recipe.data.cache, recipe.data.cache_bytes) if recipe.data.cache else None
    site = Site(size=recipe.image_size, channels=recipe.image_channels, cache=cache, catalog=catalog)
    if not isinstance(recipe.dataset, MixturePart):
        return make(_changed(recipe.dataset, changes), site, catalog)
    from ldm_core.data.mixture import Mixture
    from ldm_core.model.parts import labels_of

    members, parts = recipe.dataset.members, []
    labels, weights = labels_of(members), recipe.dataset.weights or (None,) * len(members)
    problem: NoSplit | None = None
    for member, label, weight in zip(members, labels, weights, strict=True):
        if not changes.keys() <= set(unstructure(member.config)):
            continue
        try:
            parts.append((label, make(_changed(member, changes), site, catalog), weight))
        except NoSplit as error:
            if not changes:
                raise
            problem = error
    if not parts:
        raise problem or NoSplit(f"no data set of the mixture has the setting '{next(iter(changes))}'")
    return Mixture(parts, like, spread=bool(changes))


def held_out_data(recipe: Recipe, catalog: Catalog, info: DataInfo) -> Any | None:
    """The held-out examples (the split ``val``) of the recipe's data, their classes numbered as in `info`, of the
    training data; None if it has no such split. DataError if they are there and cannot be read."""
    if all(configs.of(DatasetConfig, part.config).split is None for part in recipe.datasets):
        return None
    try:
        dataset = make_dataset(recipe, catalog, info, split="val")
    except NoSplit:
        return None
    except DataError as error:
        raise DataError(f"held-out data: {error}") from error
    if (counted := configs.of(DatasetAnswers, dataset).counted) is not None:
        dataset = counted({key: _known(recipe, key, count) for key, count in info.classes.items()})
    names = dataset.class_names
    if all(names[key] == info.class_names[key] for key in names if info.class_names.get(key)):
        return dataset
    from ldm_core.data.mixture import Mixture

    return Mixture([("val", dataset, None)], info, spread=True)  # it renumbers classes by their names


def _known(recipe: Recipe, key: str, count: int) -> int:
    """The number of classes of `key` known to the model: `count`, or more if a conditioner knows more."""
    own = [
        configs.of(ConditionerConfig, part.config).classes for part in recipe.conditioners if key in part.config.reads
    ]
    return max([count, *(n for n in own if isinstance(n, int))])


def _changed(part: Part, changes: dict[str, Any]) -> Part:
    return attrs.evolve(part, config=attrs.evolve(part.config, **changes)) if changes else part


def data_info(dataset: Any) -> DataInfo:
    """The offer of a data set."""
    answers = configs.of(DatasetAnswers, dataset)
    classes, names = dataset.classes, dataset.class_names
    return DataInfo(
        keys=dataset.keys,
        classes=classes,
        class_names=names,
        lacks=answers.lacks,
        widths=answers.widths,
        palettes=answers.palettes,
    )


def labels_of(members: Sequence[Part]) -> list[str]:
    """A short name for each data set: the last part of its URL or its component's name, numbered if two agree."""
    names = []
    for member in members:
        url = configs.of(DatasetConfig, member.config).url
        name = storage.base_name(storage.shown(url)) if isinstance(url, str) and url else ""
        names.append(name.removesuffix(".tar") or member.label)
    return [n if names.count(n) == 1 else f"{n}#{names[:i].count(n) + 1}" for i, n in enumerate(names)]
