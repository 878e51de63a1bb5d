"""Adapters of a model: filled from files of their own, and changed without touching the model that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import EMPTY, Adapter, Site
from ldm_core.contracts.streams import mix_seed
from ldm_core.model.budget import held_to
from ldm_core.model.conformance.first_batch import Contracts
from ldm_core.model.diffusion import Model
from ldm_core.model.fill import load_weights, require_same, seeded, tensors_of, unfilled
from ldm_core.model.parts import make
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import AdapterPart, Recipe


def budget(
    parts: Iterable[AdapterPart], known: Mapping[str, tuple[int, ...]] = EMPTY
) -> AbstractContextManager[object]:
    """A context in which adapters make no more than their files hold, and the `known` tensors; without a file among
    them they are the recipe's own."""
    files = [part.file for part in parts if part.file]
    if not files:
        return nullcontext()
    stored = {f"{i}.{name}": shape for i, file in enumerate(files) for name, shape in artifacts.shapes(file).items()}
    return held_to({**stored, **known}, ", ".join(map(storage.shown, files)))


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
    CheckpointError for a file of another shape, or beyond it.
    """
    known = {part.name: part for part in former.adapters}
    shapes = {name: tuple(value.shape) for name, value in model.adapters.named_parameters()}
    with seeded(mix_seed(recipe.seed, "adapters")), unfilled(), budget(recipe.adapters, shapes):
        made: dict[str, Adapter] = {part.key: make(part, site, catalog) for part in recipe.adapters}
        changed = model.beside(made)
    for part in recipe.adapters:
        before = known.get(part.name)
        if before is not None and (before.use, before.sha256) == (part.use, part.sha256):
            _take_state(made[part.key], model.attached[before.key])
        else:
            fill(changed, part)
    changed.contracts = Contracts(recipe, catalog, site.latent)
    changed.adapters.to(model.device).eval().requires_grad_(False)  # the rest is shared, and as it is to be
    return changed


def _take_state(adapter: Adapter, before: Adapter) -> None:
    if isinstance(adapter, nn.Module) and isinstance(before, nn.Module):
        adapter.load_state_dict(before.state_dict())
