"""Checks before a run writes anything: someone's file has none of its names, and its places can be written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ldm_core import storage
from ldm_core.errors import CheckpointError, ConfigError, StorageError
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import BEGUN_FILE
from ldm_core.sampling.picture_folder import require_writable
from ldm_core.training.folder import metrics, own_files

if TYPE_CHECKING:
    from ldm_core.training.context import RunContext

_FEW = 4
_NUMBERED = re.compile(r"(previews/(?:samples|reconstructions)-|ema/step-)(\d{8,})\.(?:png|safetensors)")
_MANY = 1_000_000  # samples with their names looked at


def require_free(context: RunContext, stages: Sequence[str]) -> None:
    """Check that the named stages can write all their files.

    :class:`ConfigError` if a file of somebody else has a name of the run's, :class:`StorageError` if a folder cannot
    be written to or a file has its place.
    """
    for folder in ("", *own_files.FOLDERS, "checkpoints", "latents", "logs"):  # remotely the lock was the probe
        path = storage.local_path(storage.join(context.out, folder) if folder else context.out)
        if path is not None and path.exists():
            require_writable(str(path))
    if (
        context.recipe.trainer.latents
        and not context.recipe.first_stage.weights
        and not storage.exists(context.stage_url)
    ):
        require_writable(context.recipe.trainer.latents)  # else they may be there already, for reading alone
    present = context.own.present()
    foreign = [name for name in dict.fromkeys(_written(context, stages, present)) if not context.own.owns(name)]
    if foreign := [name for name in foreign if not _stays(context, name)]:
        few = ", ".join(foreign[:_FEW]) + (f" and {len(foreign) - _FEW} more" if len(foreign) > _FEW else "")
        raise ConfigError(
            f"{storage.shown(context.out)} holds {few}, which this run did not write (or which was changed since) and "
            "would overwrite; give another `out`, move what is yours, or set `force`"
        )
    heal(context)


def _written(context: RunContext, stages: Sequence[str], present: set[str]) -> Iterator[str]:
    """Give the existing files with names of the run's."""
    recipe = context.recipe
    names = [own_files.RECIPE, BEGUN_FILE, own_files.METRICS, own_files.BAD]
    if "first_stage" in stages:
        names += [artifacts.STAGE_FILE, "reconstructions.png"]
    if "denoiser" in stages:
        names += [artifacts.MODEL_FILE, *([artifacts.BEST_FILE] if recipe.trainer.keep_best else [])]
        if recipe.trainer.train == "adapters":
            names += [artifacts.adapter_name(part.name) for part in recipe.adapters if part.train]
    if "samples" in stages:
        asked = len(context.inputs.rows) if context.inputs.rows else len(recipe.sample.prompts)
        names += ["samples.png", *(f"samples/{i:04d}.png" for i in range(min(_MANY, max(recipe.sample.images, asked))))]
    drawn = (name for name in sorted(present) if own_files.is_stage_picture(name))
    names += [name for name in drawn if name.startswith(tuple(stages))]
    yield from (name for name in names if name in present)
    every = {
        "previews/reconstructions-": ("first_stage", recipe.first_stage_trainer.preview_every),
        "previews/samples-": ("denoiser", recipe.trainer.preview_every),
        "ema/step-": ("denoiser", 1),
    }
    for name in sorted(present):
        if match := _NUMBERED.fullmatch(name):
            stage, interval = every[match[1]]
            if stage in stages and interval and int(match[2]) % interval == 0:
                yield name


def _stays(context: RunContext, name: str) -> bool:
    """Say whether somebody else's file may stay, as the run would not write it: the very result of a stage, put here
    by hand, with its pictures; or a recipe of the same content."""
    if name == own_files.RECIPE:
        return own_files.says(context.own.url(name), context.recipe)
    first = name == "reconstructions.png" or name.startswith("first_stage")
    kind, url = ("first_stage", context.stage_url) if first else ("model", context.model_url)
    if not first and not name.startswith(("model", artifacts.BEST_FILE, "denoiser_", f"{artifacts.ADAPTERS}/")):
        return False
    try:
        return own_files.is_ours(url) and context.is_finished(kind)
    except (CheckpointError, StorageError):
        return False


def heal(context: RunContext) -> None:
    """Name the unreadable lines of ``metrics.jsonl``, and take the half line of a killed process off its end."""
    told = metrics.heal(storage.join(context.out, own_files.METRICS))
    if told:
        context.run.say(told, "warning")
    if storage.exists(bad := storage.join(context.out, own_files.BAD)):
        storage.read_text(bad)  # unreadable, it would stop the run when the next bad example is put down
