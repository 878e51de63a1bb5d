"""The survey of data: by place or name as the command line takes it, or of a data set at hand. Imports no torch.

::

    from ldm_plugin_datasheet.survey import survey

    sheet = survey("photos/", cond=["text"])
    print(sheet.parts[0].captions, sheet.problems)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ldm_core.catalog import Catalog
from ldm_core.contracts import SIZE_KEYS, Dataset
from ldm_core.data.mixture import Mixture
from ldm_core.data.sizes import paired
from ldm_core.errors import ConfigError, LDMError
from ldm_core.model.parts import data_info, make_dataset
from ldm_core.recipe.check import check
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve
from ldm_core.weights.convert import finder
from ldm_plugin_datasheet.amounts import EVERYTHING, MADE, Wanted
from ldm_plugin_datasheet.counts.part import part
from ldm_plugin_datasheet.examples import Tell, silent
from ldm_plugin_datasheet.facts import DataSheet, Need, Part
from ldm_plugin_datasheet.opened import Asked, Opened, opened


def survey(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    recipe: str | None = None,
    cond: Sequence[str] = (),
    settings: Sequence[str] = (),
    seed: int = 0,
    everything: bool = False,
) -> DataSheet:
    """Look into data by path, URL or name, several of them as a mixture, and hold a recipe or conditioners to it.

    `settings` are ``KEY=VALUE`` as on the command line. Examples are drawn by `seed`, or with `everything` all are
    looked at. Raises LDMErrors if there is nothing to look at; faults for a run alone are in `problems`.
    """
    places = [data] if isinstance(data, str | os.PathLike) else list(data)
    asked = Asked(
        data=tuple(os.fspath(place) for place in places), recipe=recipe, cond=tuple(cond), settings=tuple(settings)
    )
    catalog = Catalog.discover()
    plain = asked.plain(catalog)
    return surveyed(opened(plain, catalog), asked, plain, catalog, seed=seed, everything=everything)


def survey_of(
    dataset: Dataset,
    *,
    title: str = "data",
    size: tuple[int, int] | None = None,
    seed: int = 0,
    everything: bool = False,
) -> DataSheet:
    """Look into a data set at hand; `size` (h, w) is the image size of a run, if there is one."""
    wanted = Wanted(amounts=EVERYTHING if everything else MADE, seed=seed, size=size)
    return DataSheet(parts=(part(dataset, wanted, title=title, use=type(dataset).__name__),), seed=seed)


def surveyed(
    sets: Sequence[Opened],
    asked: Asked,
    plain: Mapping[str, Any],
    catalog: Catalog,
    *,
    seed: int = 0,
    everything: bool = False,
    tell: Tell = silent,
) -> DataSheet:
    """Look into opened data sets; `plain` is the recipe of `asked`."""
    parts = tuple(_part(each, asked, catalog, seed, everything, tell) for each in sets)
    lacks = dict(Mixture([(each.label, each.dataset, each.weight) for each in sets]).lacks) if len(sets) > 1 else {}
    sheet = DataSheet(parts=parts, seed=seed, lacks=lacks)
    if not asked.holds:
        return sheet
    needs, problems = _held(plain, catalog, sheet)
    return attrs.evolve(sheet, needs=needs, problems=problems, checked=asked.words())


def _part(each: Opened, asked: Asked, catalog: Catalog, seed: int, everything: bool, tell: Tell) -> Part:
    wanted = Wanted(
        amounts=EVERYTHING if everything else each.amounts,
        seed=seed,
        size=each.recipe.image_size,
        rule=each.recipe.data.fit,
        recipe=asked.of_size(),
    )
    found = part(each.dataset, wanted, title=each.title, use=each.use, tell=tell)
    held_out, why = each.held_out(catalog)
    remarks = "; ".join(filter(None, (found.remarks, why)))
    return attrs.evolve(found, held_out=held_out, remarks=remarks)


def _held(plain: Mapping[str, Any], catalog: Catalog, sheet: DataSheet) -> tuple[tuple[Need, ...], tuple[str, ...]]:
    """The keys read by the recipe's conditioners, and everything to stop a run of it."""
    needs: tuple[Need, ...] = ()
    try:
        recipe = resolve(plain, catalog, find=finder(catalog))
        needs = tuple(_needs(recipe, sheet))
        _check(plain, recipe, catalog)
    except ConfigError as error:
        return needs, error.problems
    except LDMError as error:
        return needs, (str(error),)
    return needs, ()


def _check(plain: Mapping[str, Any], recipe: Recipe, catalog: Catalog) -> None:
    """Check a recipe against its data as a run does before it trains, but for the machine's memory."""
    from ldm_core.model.conformance.dataset import hold_data
    from ldm_core.training.feed.first_look import look, look_at_held_out

    dataset = make_dataset(recipe, catalog)
    info = data_info(dataset)
    recipe = resolve(plain, catalog, info, find=finder(catalog))
    check(recipe, info)
    hold_data(dataset, recipe, catalog)
    look(paired(dataset, recipe.asked(dataset.keys)), recipe)
    look_at_held_out(recipe, catalog, info)


def _needs(recipe: Recipe, sheet: DataSheet) -> Iterator[Need]:
    for conditioner in recipe.conditioners:
        for key in conditioner.config.reads:
            if key in SIZE_KEYS:
                continue
            have = sum(each.have for found in sheet.parts for each in found.keys if each.name == key)
            total = sum(found.examples for found in sheet.parts)
            reasons = [found.lacks[key] for found in sheet.parts if key in found.lacks]
            why = "" if have == total else "; ".join(reasons) or sheet.lacks.get(key, "")
            spoils = conditioner.degradation if key == conditioner.made and not have else None
            yield Need(conditioner.name, key, have, total, why, "" if spoils is None else spoils.label)
