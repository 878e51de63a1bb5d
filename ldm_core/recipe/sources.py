"""Trained weights named by a recipe: those of a part, and those to start from; the file, and the reasons against it.
Torch-free; :mod:`ldm_core.training.finetune` takes the weights to start from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure, unstructure
from ldm_core.errors import ConfigError, quoted
from ldm_core.recipe import artifacts, sizes
from ldm_core.recipe.artifacts import Find
from ldm_core.recipe.places import described_part
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.settings import EngineSettings

S = TypeVar("S", bound=EngineSettings)
_HOLDS = {
    "first_stage_trainer": (artifacts.STAGE_FILE, "first_stage"),
    "trainer": (artifacts.MODEL_FILE, "model"),
}


def trained_config(
    header: artifacts.Header,
    named: str,
    given: Mapping[str, object],
    path: str,
    catalog: Catalog,
    free: Collection[str] = (),
) -> Any:
    """The config of a trained part, from the `header` of its file; `given` may set the fields of `free` anew.

    `named` is the component or preset that the recipe names, "" for none. Raises ConfigError where the file holds
    another one, or `given` asks for other settings than the file's.
    """
    kind, where = header.kind, storage.shown(header.url)
    entry, _ = catalog.get(kind, header.use)
    theirs = described_part(kind, {**header.config, "use": header.use}, catalog)
    theirs.pop("use")
    if problems := list(sizes.misfits(theirs, entry.component.config, f"{where}: {kind}")):
        raise ConfigError(problems)
    conf: Any = structure(theirs, entry.component.config, f"{where}: {kind}")
    if named and named not in (header.use, entry.component.name) and named not in entry.component.presets:
        raise ConfigError(f"{path}: {where} holds a '{header.use}', not a '{named}'; leave 'use' out")
    own = unstructure(conf)
    for key, value in given.items():
        if key not in free and own.get(key) != value:
            what = "stage" if kind == "first_stage" else kind
            raise ConfigError(
                f"{path}.{key}: a trained {what} keeps its own settings ({key}: {quoted(own.get(key))} in {where}); "
                f"leave the key out, or train {'a stage' if what == 'stage' else 'one'} of your own"
            )
    changed = {key: value for key, value in given.items() if own.get(key) != value}
    return structure({**own, **changed}, entry.component.config, path) if changed else conf


def require_hash(header: artifacts.Header, given: str, path: str) -> None:
    """ConfigError if the recipe was made with another file than that of `header`."""
    if given and given != header.sha256:
        raise ConfigError(
            f"{path}: {storage.shown(header.url)} is not the file that the recipe was made with (sha256 "
            f"{header.sha256[:12]}, the recipe says {given[:12]}); give the right file, or leave 'sha256' out to take "
            "this one"
        )


def with_hash(settings: S, section: str, find: Find = artifacts.find) -> S:
    """`settings` with the hash of their starting weights: another content is another run, another place of the same
    content is not.

    Raises ConfigError if the recipe was made with other weights, CheckpointError for a file of another kind.
    """
    if not settings.init_from:
        return settings  # a hash alone: the recipe of a model finetuned once
    header = init_header(settings, section, find=find)
    if settings.init_sha256 and settings.init_sha256 != header.sha256:
        raise ConfigError(
            f"{section}.init_from: {storage.shown(settings.init_from)} is not the file that the recipe was made with "
            f"(sha256 {header.sha256[:12]}, the recipe says {settings.init_sha256[:12]}); give the right file, or "
            f"{section}.init_sha256= to take this one"
        )
    return attrs.evolve(settings, init_sha256=header.sha256)


def init_header(
    settings: EngineSettings, section: str, sha256: str | None = None, find: Find = artifacts.find
) -> artifacts.Header:
    """The header of the weights that `settings` start from; `sha256`: its hash if it is known."""
    name, kind = _HOLDS[section]
    return artifacts.read_header(find(settings.init_from, name), kind, sha256=sha256)


def misfits(recipe: Recipe, find: Find = artifacts.find) -> Iterable[str]:
    """One line for each reason against a start from the recipe's weights."""
    stage, trainer = recipe.first_stage_trainer, recipe.trainer
    for section, settings in (("first_stage_trainer", stage), ("trainer", trainer)):
        if settings.init_sha256 and not settings.init_from:
            yield (
                f"{section}.init_sha256: the recipe's weights were trained from a file that it does not name; give it "
                f"with {section}.init_from=PATH_OR_URL, or start fresh with {section}.init_sha256="
            )
    if stage.init_from and recipe.first_stage.weights:
        yield (
            "first_stage_trainer.init_from: the recipe's first_stage is a trained one, which stays as it is; to "
            f"finetune it, name its component: first_stage={recipe.first_stage.use}, with its settings"
        )
    if stage.train == "decoder" and recipe.trains_stage and not stage.init_from:
        yield (
            "first_stage_trainer.train: 'decoder' leaves the latents as they are, and fresh ones say nothing; name a "
            "trained stage with first_stage_trainer.init_from=RUN, or set first_stage_trainer.train=all"
        )
    if trainer.init_from:
        yield from _other_latents(recipe, find)


def _other_latents(recipe: Recipe, find: Find) -> Iterable[str]:
    where = storage.shown(recipe.trainer.init_from)
    fix = "set first_stage to the folder of that model's run (`first_stage`)"
    if not recipe.first_stage.weights:
        yield (
            f"trainer.init_from: {where} was trained on the latents of its own first stage, and this recipe trains "
            f"another one; {fix}"
        )
        return
    theirs = init_header(recipe.trainer, "trainer", recipe.trainer.init_sha256, find).extra.get("first_stage_sha256")
    if theirs == "":  # a foreign denoiser by itself: nobody knows, and the user says so
        return
    if theirs != recipe.first_stage.sha256:
        yield (
            f"trainer.init_from: {where} was trained on latents of another first stage (sha256 {str(theirs)[:12]}) "
            f"than {storage.shown(recipe.first_stage.weights)} ({recipe.first_stage.sha256[:12]}); {fix}"
        )
