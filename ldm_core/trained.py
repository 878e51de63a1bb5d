"""Trained weights from their files: tensors, a first stage, the device that they go to."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from ldm_core import artifacts, storage
from ldm_core.budget import held_to
from ldm_core.build import load_weights, make_first_stage, require_same
from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import Recipe
from ldm_core.weights.finite import warn_of


def device_named(name: str | None) -> torch.device:
    """The torch device of this name; None = a GPU where there is one. :class:`ConfigError` where it cannot be used."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch's own words: a build without this backend, an index past the last device
        reason = "no such kind of device" if "device string" in str(error) else str(error).partition("\n")[0][:120]
        raise ConfigError(f"device '{name}' cannot be used here ({reason}); try cpu, or leave it out") from error
    return device


def load_stage(recipe: Recipe, catalog: Catalog, url: str, device: torch.device) -> FirstStage:
    """A trained first stage from its file, in eval mode and frozen.

    Raises CheckpointError where the recipe's is not that of the file, before memory is taken for another.
    """
    stored = artifacts.shapes(url)
    with held_to(stored, storage.shown(url)):
        stage: Any = make_first_stage(recipe, catalog)
    require_same(stage, stored, url)
    load_weights(stage, tensors_of(url), url)
    stage.to(device).eval().requires_grad_(False)
    return stage


def tensors_of(url: str, *, warn: bool = True) -> dict[str, Tensor]:
    """The tensors of a weights file by name; :class:`CheckpointError` where it is damaged. With `warn`, a warning names
    those that hold values that are not finite."""
    try:
        tensors = parse_safetensors(storage.read_bytes(url))
    except SafetensorError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{storage.shown(url)}: is damaged ({reason}); copy it again") from error
    if warn:
        warn_of(tensors, storage.shown(url))
    return tensors
