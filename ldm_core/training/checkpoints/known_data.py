"""The known data of a folder's run: the identities in its files, and the ways to make a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ldm_core import storage
from ldm_core.contracts import DatasetAnswers
from ldm_core.contracts.configs import DatasetConfig, of
from ldm_core.errors import CheckpointError, StorageError
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.checkpoints import files as checkpoint


def ways(dataset: Any) -> Sequence[Callable[[Any], str]]:
    """Give the functions for fingerprints of `dataset` and of its views: as now, and, if different, as 0.1.0 made
    them."""
    now: Callable[[Any], str] = lambda data: data.fingerprint()  # noqa: E731
    former = of(DatasetAnswers, dataset).former_fingerprint
    if former is None or former() == dataset.fingerprint():
        return [now]
    return [now, lambda data: data.former_fingerprint()]


def identities(recipe: Recipe, out: str) -> frozenset[str]:
    """The identities of the stages finished or begun in a run's folder."""
    found: set[Any] = set()
    files = [(artifacts.STAGE_FILE, "first_stage"), (artifacts.MODEL_FILE, "model")]
    for name, kind in files[1:] if recipe.first_stage.weights else files:  # trained weights are another run's
        with suppress(CheckpointError, StorageError):
            found.add(artifacts.read_header(storage.join(out, name), kind).extra.get("identity"))
    for stage in ("first_stage", "denoiser"):
        folder = storage.join(out, "checkpoints", stage)
        with suppress(StorageError):
            for name in checkpoint.listed(folder)[0]:
                with suppress(ValueError, AttributeError):
                    manifest = json.loads(storage.read_bytes(storage.join(folder, name, checkpoint.MANIFEST)))
                    found.add(manifest.get("identity"))
    return frozenset(each for each in found if isinstance(each, str))


def places(recipe: Recipe) -> str:
    """Give the place of a recipe's data, for messages."""
    urls = [of(DatasetConfig, part.config).url or part.use for part in recipe.datasets]
    return ", ".join(storage.shown(url) for url in urls)
