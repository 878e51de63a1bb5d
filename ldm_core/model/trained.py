"""Trained weights from their files: tensors, a first stage, their device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage, Site
from ldm_core.model.budget import held_to
from ldm_core.model.build import make_first_stage
from ldm_core.model.fill import load_weights, require_same, tensors_of
from ldm_core.model.parts import make
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Part, Recipe


def load_stage(recipe: Recipe, catalog: Catalog, url: str, device: torch.device) -> FirstStage:
    """A trained first stage from its file, in eval mode and frozen.

    Raises CheckpointError if the recipe's is not the file's, before memory is taken for another.
    """
    stage: Any = _filled(lambda: make_first_stage(recipe, catalog), url, device)
    return stage  # type: ignore[no-any-return]


def load_part(part: Part, site: Site, catalog: Catalog, url: str, device: torch.device) -> nn.Module:
    """A trained part by itself from its file, in eval mode and frozen; CheckpointError as by :func:`load_stage`."""
    return _filled(lambda: make(part, site, catalog), url, device)


def _filled(make: Callable[[], object], url: str, device: torch.device) -> nn.Module:
    stored = artifacts.shapes(url)
    with held_to(stored, storage.shown(url)):
        made = cast(nn.Module, make())
    require_same(made, stored, url)
    load_weights(made, tensors_of(url), url)
    return made.to(device).eval().requires_grad_(False)
