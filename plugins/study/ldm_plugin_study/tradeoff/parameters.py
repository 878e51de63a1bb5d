"""Denoisers of equal numbers of parameters on latents of different sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import floor, lcm
from typing import Any

import attrs
import torch

from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts import Site
from ldm_core.contracts.configs import DenoiserConfig, of
from ldm_core.errors import ConfigError
from ldm_core.model.fill import unfilled
from ldm_core.model.parts import make
from ldm_core.recipe.check import site_of
from ldm_core.recipe.recipe import Part, Recipe

SPREAD = 0.015
"""The largest distance of a count from the wanted one; two counts then differ by at most 3 %."""


@attrs.frozen(kw_only=True)
class Fitted:
    """A denoiser's plain values, and its number of parameters."""

    plain: Mapping[str, Any]
    count: int


def count(part: Part, site: Site, catalog: Catalog) -> int:
    """The parameters of a denoiser; none are made."""
    with torch.device("meta"), unfilled():
        made = make(part, site, catalog)
    return sum(p.numel() for p in made.parameters())


def own(recipe: Recipe, catalog: Catalog) -> Fitted:
    """The recipe's denoiser, with as many levels as its latents allow."""
    for part in _with_fewer_levels(recipe):
        if not _misfits(part, site_of(recipe)):
            return Fitted(plain=part.plain(), count=count(part, site_of(recipe), catalog))
    raise ConfigError([f"denoiser: {line}" for line in _misfits(recipe.denoiser, site_of(recipe))])


def fitted(recipe: Recipe, wanted: int, catalog: Catalog) -> Fitted:
    """A denoiser of `wanted` parameters, within :data:`SPREAD`: of the recipe's kind, with other base channels, and if
    no width fits, with other residual blocks or groups too. ConfigError if none does."""
    first = own(recipe, catalog)
    if abs(first.count - wanted) <= SPREAD * wanted:
        return first
    if "channels" not in first.plain:
        raise ConfigError(
            f"denoiser: '{recipe.denoiser.use}' has no `channels` to search over; take one that has, such as unet"
        )
    site, nearest = site_of(recipe), first
    for plain in _shapes(first.plain):
        for number, values in _widths(plain, recipe.denoiser, site, wanted, catalog):
            if abs(number - wanted) < abs(nearest.count - wanted):
                each = _made(values, recipe.denoiser, site, catalog)
                nearest = min((each, nearest) if each else (nearest,), key=lambda found: abs(found.count - wanted))
        if abs(nearest.count - wanted) <= SPREAD * wanted:
            return nearest
    raise ConfigError(
        f"parameters: no '{recipe.denoiser.use}' on latents of '{recipe.first_stage.label}' has {wanted:,} of them, "
        f"within {SPREAD:.1%}; the nearest has {nearest.count:,}"
    )


def _with_fewer_levels(recipe: Recipe) -> Iterator[Part]:
    part = recipe.denoiser
    yield part
    levels = part.plain().get("channel_mult") or ()
    for number in range(len(levels) - 1, 0, -1):
        yield attrs.evolve(part, config=attrs.evolve(part.config, channel_mult=tuple(levels[:number])))


def _misfits(part: Part, site: Site) -> list[str]:
    return list(of(DenoiserConfig, part.config).check(site))


def _shapes(plain: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The recipe's own shape, then others: finer widths first, then more residual blocks and a wider last level."""
    blocks, groups, heads = (int(plain.get(key, 0)) for key in ("res_blocks", "norm_groups", "heads"))
    mult = tuple(plain.get("channel_mult", ()))
    wider = [mult, (*mult[:-1], mult[-1] + 1)] if len(mult) > 1 else [mult]
    finer = dict.fromkeys(
        [(groups, heads), *((max(2, groups // n), each) for n, each in ((2, heads), (4, heads), (4, 1)))]
    )
    for levels, number, (some, each) in product(wider, range(blocks, blocks + 4), finer):
        changed = {"channel_mult": levels, "res_blocks": number, "norm_groups": some, "heads": each}
        yield {**plain, **{key: value for key, value in changed.items() if plain.get(key)}}


def _widths(
    plain: Mapping[str, Any], like: Part, site: Site, wanted: int, catalog: Catalog
) -> Iterator[tuple[float, dict[str, object]]]:
    """The two denoisers of a shape nearest to `wanted` parameters, not yet made, each after its number of them: a
    square function of the width, which three others determine."""
    unit = lcm(int(plain.get("norm_groups") or 8), int(plain.get("head_channels") or plain.get("heads") or 1))
    first = [_made({**plain, "channels": unit * n}, like, site, catalog) for n in (1, 2, 4)]
    one, two, four = (each.count if each else 0 for each in first)
    if not (one and two and four):
        return
    square = ((four - two) / 2 - (two - one)) / 3
    linear = two - one - 3 * square
    rest = one - linear - square
    root = linear**2 - 4 * square * (rest - wanted)
    number = (root**0.5 - linear) / (2 * square) if square > 0 and root > 0 else 1.0
    for near in sorted({max(1, floor(number)), max(1, floor(number) + 1)}):
        yield square * near**2 + linear * near + rest, {**plain, "channels": unit * near}


def _made(plain: Mapping[str, Any], like: Part, site: Site, catalog: Catalog) -> Fitted | None:
    """A denoiser of these values; None if they do not fit."""
    values = {k: v for k, v in plain.items() if k != "use"}
    part = attrs.evolve(like, config=structure(values, type(like.config), "denoiser"))
    return None if _misfits(part, site) else Fitted(plain=part.plain(), count=count(part, site, catalog))
