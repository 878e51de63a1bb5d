"""Data sets opened for a look, as the command line and recipes name them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli.assemble import assemble
from ldm_core.cli.options import RecipeOptions
from ldm_core.contracts import Dataset, DatasetConfig
from ldm_core.contracts.configs import of
from ldm_core.data.records.config import ReadingConfig
from ldm_core.errors import ConfigError, DataError, NoSplit
from ldm_core.model.parts import data_info, held_out_data, labels_of, make_dataset
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve, use_storage
from ldm_core.recipe.shipped import LAPTOP
from ldm_plugin_datasheet.amounts import LOCAL, MADE, REMOTE, Amounts

_OWN = ("image_size", "image_channels", "dataset", "data", "storage")
"""Keys of a recipe for a look at the data alone."""


@attrs.frozen(kw_only=True)
class Asked:
    """The data to look into: places or names, the recipe and conditioners to hold them to, and settings."""

    data: tuple[str, ...] = ()
    recipe: str | None = None
    cond: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """True if a recipe or parts of one are held to the data."""
        others = [line for line in self.settings if _key(line) not in _OWN]
        return bool(self.recipe or self.cond or others)

    def words(self) -> str:
        """The recipe and conditioners in words."""
        return f"recipe '{self.recipe or LAPTOP}'" + (f" with {', '.join(self.cond)}" if self.cond else "")

    def of_size(self) -> str:
        """The source of the image size, in words."""
        said = any(_key(line) == "image_size" for line in self.settings)
        return "as set" if said else f"of the recipe '{self.recipe or LAPTOP}'"

    def plain(self, catalog: Catalog) -> dict[str, Any]:
        """The recipe's plain values. ConfigError without data."""
        if not self.data and self.recipe is None and not any(_key(line) == "dataset" for line in self.settings):
            raise ConfigError("data: nothing to look into; give a folder, tars or a data set by path, URL or name")
        cond = self.cond if self.recipe or self.cond else ("none",)
        options = RecipeOptions(recipe=self.recipe, cond=cond, data=self.data, settings=self.settings)
        return assemble(options, catalog).plain


def _key(line: str) -> str:
    return line.partition("=")[0].partition(".")[0].strip()


@attrs.frozen(eq=False)
class Opened:
    """One data set, with `recipe`, a recipe of the data alone."""

    label: str
    title: str
    use: str
    dataset: Dataset
    weight: float | None
    recipe: Recipe
    amounts: Amounts

    def held_out(self, catalog: Catalog) -> tuple[int | None, str]:
        """The number of held-out examples, None without any; and the reason if they are unreadable."""
        if of(DatasetConfig, self.recipe.datasets[0].config).split == "val":
            return None, ""  # it is looked into itself
        try:
            found = held_out_data(self.recipe, catalog, data_info(self.dataset))
        except DataError as error:
            return None, str(error)
        return (None if found is None else len(found)), ""


def opened(plain: Mapping[str, Any], catalog: Catalog) -> list[Opened]:
    """The data sets of a recipe's plain values, each by itself; samples without a key are left in."""
    use_storage(plain)
    given = plain.get("dataset")
    rows = list(given) if isinstance(given, list | tuple) else [given]
    return list(_each(plain, rows, catalog))


def _each(plain: Mapping[str, Any], rows: Sequence[Any], catalog: Catalog) -> Iterator[Opened]:
    kept = {key: plain[key] for key in ("image_size", "image_channels", "data", "storage") if key in plain}
    recipes = []
    for number, row in enumerate(rows):
        alone = {k: v for k, v in row.items() if k != "weight"} if isinstance(row, Mapping) else row
        try:
            recipes.append(resolve({**kept, "image_channels": 3, "dataset": alone}, catalog))
        except ConfigError as error:
            name = f"dataset.{number}" if len(rows) > 1 else "dataset"
            raise ConfigError([line.replace("dataset", name, 1) for line in error.problems]) from None
    labels = labels_of([recipe.datasets[0] for recipe in recipes])
    for row, recipe, label in zip(rows, recipes, labels, strict=True):
        config = recipe.datasets[0].config
        url = of(DatasetConfig, config).url
        yield Opened(
            label=label,
            title=storage.shown(url) if url else recipe.datasets[0].use,
            use=recipe.datasets[0].use,
            dataset=_made(recipe, catalog),
            weight=row.get("weight") if isinstance(row, Mapping) else None,
            recipe=recipe,
            amounts=_amounts(url),
        )


def _made(recipe: Recipe, catalog: Catalog) -> Dataset:
    """The data set of a recipe of one. A split that is not there is told with the setting for others."""
    stored = isinstance(recipe.datasets[0].config, ReadingConfig)
    changes: dict[str, Any] = {"missing": "skip"} if stored else {}
    try:
        found: Dataset = make_dataset(recipe, catalog, **changes)
    except NoSplit as error:
        raise NoSplit(f"{error}; another split is looked into with dataset.split=NAME") from None
    return found


def _amounts(url: str) -> Amounts:
    if not url:
        return MADE
    return LOCAL if storage.local_path(url) is not None else REMOTE
