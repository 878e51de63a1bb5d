"""Trained weights from their files: tensors, a first stage, their device."""

from __future__ import annotations

from typing import Any

import torch

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage
from ldm_core.model.budget import held_to
from ldm_core.model.build import make_first_stage
from ldm_core.model.fill import load_weights, require_same, tensors_of
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe


def load_stage(recipe: Recipe, catalog: Catalog, url: str, device: torch.device) -> FirstStage:
    """A trained first stage from its file, in eval mode and frozen.

    Raises CheckpointError if the recipe's is not the file's, before memory is taken for another.
    """
    stored = artifacts.shapes(url)
    with held_to(stored, storage.shown(url)):
        stage: Any = make_first_stage(recipe, catalog)
    require_same(stage, stored, url)
    load_weights(stage, tensors_of(url), url)
    stage.to(device).eval().requires_grad_(False)
    return stage
