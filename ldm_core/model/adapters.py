"""Adapters of a model: filled from files of their own, and changed without touching the model that is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import Tensor, nn

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import Adapter, Site
from ldm_core.contracts.streams import mix_seed
from ldm_core.model.arithmetic import allowed_by
from ldm_core.model.budget import held_to
from ldm_core.model.conformance.first_batch import Contracts
from ldm_core.model.diffusion import Model
from ldm_core.model.fill import load_weights, require_same, seeded, tensors_of, unfilled
from ldm_core.model.parts import make
from ldm_core.model.precision import require_allowed
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import AdapterPart, Recipe


def attach(model: Model, recipe: Recipe, site: Site, catalog: Catalog) -> None:
    """Make the adapters of `recipe`, and attach them to `model`: one with a file makes no more than that holds."""
    made: dict[str, Adapter] = {}
    budgets = {part.key: _budget(part) for part in recipe.adapters}
    for part in recipe.adapters:
        with budgets[part.key]():
            made[part.key] = make(part, site, catalog)
    for part in recipe.adapters:  # attaching may make weights: layers are known only then
        with budgets[part.key]():
            model.take(part.key, made[part.key])


def _budget(part: AdapterPart) -> Callable[[], AbstractContextManager[object]]:
    return partial(held_to, artifacts.shapes(part.file), storage.shown(part.file)) if part.file else nullcontext


def fill(model: Model, part: AdapterPart) -> None:
    """Fill an attached adapter from its own file, if it has one, and freeze it if it is not to train."""
    adapter = model.attached[part.key]
    if not isinstance(adapter, nn.Module):
        return
    if part.file and not any(each.is_meta for each in adapter.state_dict().values() if isinstance(each, Tensor)):
        require_same(adapter, artifacts.shapes(part.file), storage.shown(part.file))
        load_weights(adapter, tensors_of(part.file), storage.shown(part.file))
    if not part.train:
        adapter.requires_grad_(False)


def with_adapters(model: Model, former: Recipe, recipe: Recipe, site: Site, catalog: Catalog) -> Model:
    """`model`, of the recipe `former`, with the adapters of `recipe`, frozen, beside the one that it is and stays.

    An adapter that both have under one name, of the same file, keeps its state; another comes from its own file.
    CheckpointError for a file of another shape, or beyond it; ConfigError for an adapter that the model's precision is
    not allowed for.
    """
    known = {part.name: part for part in former.adapters}
    changed = model.beside({})
    with seeded(mix_seed(recipe.seed, "adapters")), unfilled():
        attach(changed, recipe, site, catalog)
    changed.precisions, changed.contracts = allowed_by(recipe), Contracts(recipe, catalog, site.latent)
    require_allowed(changed, changed.precision)
    for part in recipe.adapters:
        before = known.get(part.name)
        if before is not None and (before.use, before.sha256) == (part.use, part.sha256):
            _take_state(changed.attached[part.key], model.attached[before.key])
        else:
            fill(changed, part)
    changed.adapters.to(model.device).eval().requires_grad_(False)  # the rest is shared, and as it is to be
    return changed


def _take_state(adapter: Adapter, before: Adapter) -> None:
    if isinstance(adapter, nn.Module) and isinstance(before, nn.Module):
        adapter.load_state_dict(before.state_dict())
