"""The recipe of a measurement: a run's, a shipped one or a file's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ldm_core import storage
from ldm_core.api.run import Run
from ldm_core.catalog import Catalog
from ldm_core.cli.assemble import assemble
from ldm_core.cli.catalog import installed
from ldm_core.cli.options import RecipeOptions
from ldm_core.errors import ConfigError
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.sampling.settings import with_settings
from ldm_core.training import workflow
from ldm_core.weights import presets
from ldm_core.weights.presets import Preset
from ldm_plugin_study.bench.measure import Measured

_BATCH = 8
_LARGE = 64 * 64  # pixels beyond which a CPU gets one image at a time


def source(
    place: str,
    settings: Sequence[str],
    data: Sequence[str],
    device: torch.device,
    batch: int | None,
    preset: str | None = None,
) -> Measured:
    """Find the recipe at `place` ("": the laptop's) and check it with its data. Raises LDMErrors.

    A run's trained weights are used as long as `settings` change none of its recipe. A `preset` of theirs chooses the
    sampling anew.
    """
    catalog = installed()
    weights = ""
    request = RecipeOptions(recipe=place or None, data=tuple(data), settings=tuple(settings))
    if place and storage.is_folder(place):
        if not storage.exists(storage.join(place, RECIPE_FILE)):
            raise ConfigError(
                f"{storage.shown(place)}: holds no run (no {RECIPE_FILE}); give the folder of one, or a recipe"
            )
        run = Run.open(place, catalog=catalog)
        request = RecipeOptions(recipe=storage.join(place, RECIPE_FILE), data=tuple(data), settings=tuple(settings))
        weights = place if {"first_stage", "denoiser"} <= run.trained.keys() and not settings else ""
    recipe, info = workflow.prepare(assemble(request, catalog).plain, catalog)
    chosen = Preset() if preset is None else _preset(place, preset, weights, catalog)
    recipe = with_settings(recipe, chosen.settings, catalog) if preset is not None else recipe
    return Measured(
        recipe=recipe,
        info=info,
        catalog=catalog,
        device=device,
        batch=batch or _batch(recipe.image_size, device),
        weights=weights,
        precision=chosen.precision,
    )


def _preset(place: str, name: str, weights: str, catalog: Catalog) -> Preset:
    where = storage.shown(place) if place else "the laptop's recipe"
    if not weights:
        raise ConfigError(
            f"preset: {where} has no trained weights of its own recipe, so no presets; give a trained run"
        )
    return presets.chosen(presets.read(weights, catalog), name, f"the weights of {where}")


def _batch(size: Sequence[int], device: torch.device) -> int:
    return _BATCH if device.type != "cpu" or size[0] * size[1] <= _LARGE else 1
