"""A second trained model with the same latents, beside the one of the run. Only :func:`load` imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import NoiseSchedule, Site
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.description import resolve_described
from ldm_core.recipe.keys import SAMPLING_KEYS
from ldm_core.recipe.places import described_by
from ldm_core.recipe.recipe import Recipe
from ldm_core.weights.convert import finder

if TYPE_CHECKING:
    from ldm_core.model.diffusion import Model


@attrs.frozen
class SecondModel:
    """A trained model's file, the hash of its content, and its recipe."""

    url: str
    sha256: str
    recipe: Recipe


def find(url: str, site: Site) -> SecondModel:
    """Find the model of a run's folder or weights file, for use at `site`, the place of another model.

    :class:`CheckpointError` without one, or with latents of another shape or, as far as hashes are known, of another
    first stage than the site's. Imports no torch.
    """
    catalog = _catalog(site)
    path = finder(catalog)(url, artifacts.MODEL_FILE)
    shown = storage.shown(path)
    header = artifacts.read_header(path, "model")
    own = str(header.extra.get("first_stage_sha256") or "")
    plain = {k: v for k, v in header.config.items() if k not in SAMPLING_KEYS}
    with described_by(shown):
        recipe = resolve_described(plain, catalog)
        latent = recipe.first_stage.config.latent
    if site.latent is not None and latent != site.latent:
        raise CheckpointError(
            f"{shown}: its latents have {latent.channels} channels at factor {latent.stride}, here they have "
            f"{site.latent.channels} at {site.latent.stride}; both models need the same first stage"
        )
    if own and site.first_stage and own != site.first_stage:
        raise CheckpointError(
            f"{shown}: was trained on the latents of another first stage (sha256 {own[:12]}, here "
            f"{site.first_stage[:12]}); train the second model with `first_stage` and this model's run"
        )
    return SecondModel(path, header.sha256, recipe)


def load(found: SecondModel, site: Site) -> Model:
    """Build the model on the CPU, frozen, in eval mode and at the site's precision; its conditioners use the site's
    first stage."""
    from ldm_core.model.budget import held_to
    from ldm_core.model.build import make_model_at
    from ldm_core.model.fill import load_weights, require_same, tensors_of
    from ldm_core.model.precision import settle
    from ldm_core.recipe.check import model_misfits, site_of

    shown, stored = storage.shown(found.url), artifacts.shapes(found.url)
    with held_to(stored, shown):
        if problems := list(model_misfits(found.recipe)):
            raise ConfigError([f"{shown}: {line}" for line in problems])
        place = attrs.evolve(site_of(found.recipe), encode=site.encode, decode=site.decode)
        model = make_model_at(place, found.recipe, _catalog(site))
    require_same(model, stored, shown)
    load_weights(model, tensors_of(found.url), shown)
    settle(model.eval().requires_grad_(False), site.precision)
    return model


def require_levels(model: Model, schedule: NoiseSchedule, named: str) -> None:
    """Raise :class:`CheckpointError`, with the name that the user gave the model, if its schedule and `schedule` differ
    at the same times."""
    import torch

    own = model.schedule
    times = schedule.draw(torch.arange(64, dtype=torch.float64) / 64)
    same = own.t_max == schedule.t_max and all(
        torch.allclose(mine(times), theirs(times), rtol=0, atol=1e-9)
        for mine, theirs in ((own.alpha, schedule.alpha), (own.sigma, schedule.sigma))
    )
    if not same:
        raise CheckpointError(
            f"{named}: was trained under another noise schedule than this model; give a model of the same schedule"
        )


def _catalog(site: Site) -> Catalog:
    """The site's catalog; the installed plugins at a site without one, as in a check of a recipe."""
    return site.catalog if isinstance(site.catalog, Catalog) else Catalog.discover()
