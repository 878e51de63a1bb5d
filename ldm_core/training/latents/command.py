"""Encoding a data set by itself, without a run."""

from __future__ import annotations

import time
from typing import Any

from ldm_core.catalog import Catalog
from ldm_core.contracts import DataInfo
from ldm_core.errors import ConfigError, StorageError
from ldm_core.model.conformance.first_stage import held_stage
from ldm_core.model.parts import make_dataset
from ldm_core.model.trained import load_stage
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.checkpoints import known_data
from ldm_core.training.engine import world
from ldm_core.training.feed.examples import Examples, paired
from ldm_core.training.folder.metrics import MetricsFile
from ldm_core.training.folder.stopping import Run, Stop
from ldm_core.training.latents import cache as latent_cache
from ldm_core.training.latents import encode as latents_encode
from ldm_core.weights.convert import finder


def encode(recipe: Recipe, info: DataInfo, catalog: Catalog) -> dict[str, Any]:
    """Encode the recipe's training data with its trained first stage into ``trainer.latents``.

    Returns plain values: the folder, counts, bytes, shapes, the moments' statistics and the seconds taken. Raises
    ConfigError if such images cannot be encoded once, :class:`~ldm_core.errors.Interrupted` if asked to stop; finished
    shards stay.
    """
    if why := latent_cache.obstacle(recipe):
        raise ConfigError(f"encode: {why}, so there is nothing that could be encoded once")
    begun = time.perf_counter()
    here = world.start()
    out = recipe.trainer.latents
    run = Run(out, here, catalog.manager.hook, Stop(), MetricsFile("", active=False))
    stage_url = finder(catalog)(recipe.first_stage.weights, artifacts.STAGE_FILE)
    data = paired(make_dataset(recipe, catalog), recipe)
    examples = Examples(data, recipe.image_size, recipe.data, ["image"])
    prints = [way(data) for way in known_data.ways(data)]
    folder, source = latent_cache.place_of(recipe, out, recipe.first_stage.sha256, prints)
    with world.ending(here), run.stop:
        done = latents_encode.ensure(
            lambda: held_stage(load_stage(recipe, catalog, stage_url, here.device), recipe, catalog, here.device),
            examples,
            run,
            folder,
            source,
            keep=recipe.data.keep,
            workers=recipe.data.workers,
        )
    if done.manifest is None:
        raise StorageError(f"{folder}: no room for the moments; choose another `out`")
    if examples.dataset.bad:
        run.say(f"data: {len(examples.dataset.bad)} unreadable example(s) passed over", "warning")
    run.hook.ldm_stage_end(stage="latents", status="done" if done.made else "skipped")
    shards = done.manifest["shards"]
    return {
        "folder": folder,
        "latents": out,
        "key": source.key,
        **{k: done.manifest[k] for k in ("count", "flips", "dtype", "bytes", "replaced", "statistics")},
        "shapes": [list(s) for s in sorted({tuple(s["shape"]) for s in shards})],
        "shards": len(shards),
        "made": done.made,
        "seconds": round(time.perf_counter() - begun, 2),
    }
