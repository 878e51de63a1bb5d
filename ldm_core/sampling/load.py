"""A trained model from a run's folder, a weights file of ours, or weights of another program.

:func:`load` gives the parts; :class:`ldm_core.sampling.pipeline.Pipeline` samples with them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import EMPTY, FirstStage
from ldm_core.contracts.codec import ModelWeights
from ldm_core.contracts.values import Precision
from ldm_core.data import known_pixels
from ldm_core.data.palettes import Palette, palette_of
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.model.budget import held_to
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.diffusion import Model
from ldm_core.model.fill import device_named, load_weights, require_same, tensors_of, unfilled
from ldm_core.model.precision import settle
from ldm_core.model.trained import load_stage
from ldm_core.recipe import artifacts
from ldm_core.recipe.check import model_misfits
from ldm_core.recipe.description import resolve_described, without_unnamed
from ldm_core.recipe.places import described_by
from ldm_core.recipe.recipe import Recipe, versions
from ldm_core.recipe.sizes import image_misfits
from ldm_core.weights.complete import frozen, recipe_of, shapes_of
from ldm_core.weights.open import NATIVE, Wanted, open_weights
from ldm_core.weights.presets import text_of


class VersionWarning(UserWarning):
    """The weights were made under other versions of the plugins than those installed."""


@attrs.frozen(eq=False)
class Loaded:
    """A recipe with its trained parts, frozen and on their device, and the hashes of their files."""

    recipe: Recipe
    stage: FirstStage
    model: Model
    catalog: Catalog
    weights: str = ""
    first_stage: str = ""
    class_names: Mapping[str, Sequence[str]] = EMPTY
    palettes: Mapping[str, Palette] = EMPTY
    presets: str = ""  # the text in the header
    made_by: str = ""  # the codec of another program; "" for our own files
    folder: str = ""  # the place of our own files


def load(
    url: str,
    catalog: Catalog,
    wanted: Wanted | None = None,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
) -> Loaded:
    """Load weights of any known format; `wanted` completes them.

    `precision` is the one of the networks' arithmetic, see :func:`ldm_core.model.precision.settle`. Raises
    CheckpointError for damaged or unknown files and for a part alone; warns (:class:`VersionWarning`) of plugins whose
    versions have changed.
    """
    wanted = wanted or Wanted()
    if wanted.says_nothing and not wanted.sha256 and artifacts.is_native(url):
        return _load_own(url, catalog, device, precision)
    opened = open_weights(url, catalog, wanted)
    made = assemble(opened.weights, catalog, device=device, precision=precision, sha256=opened.sha256, where=opened.url)
    ours = opened.codec == NATIVE
    text = text_of(url) if ours and artifacts.is_native(url) else ""
    return attrs.evolve(made, made_by="" if ours else opened.codec, presets=text)


def _load_own(url: str, catalog: Catalog, device: str | None, precision: Precision) -> Loaded:
    path = artifacts.find(url, artifacts.MODEL_FILE)
    header = artifacts.read_header(path, "model")
    stage_url = artifacts.find(storage.parent(path), artifacts.STAGE_FILE)
    stage_sha256 = artifacts.require_first_stage(header, stage_url)
    recipe = _described(header, stage_url, stage_sha256, catalog)
    _warn_of_versions(header, path, versions(recipe, catalog))
    place = device_named(device)
    stage = load_stage(recipe, catalog, stage_url, place)
    stored = artifacts.shapes(path)
    with held_to(stored, storage.shown(path)):
        model = make_model(recipe, catalog, stage)
    require_same(model, stored, path)
    load_weights(model, tensors_of(path), path)
    settle(model.to(place).eval().requires_grad_(False), precision)
    if line := known_pixels.notice(header.config, model.conditioners.values()):
        warnings.warn(f"{storage.shown(path)} {line}", stacklevel=_CALLER)
    names = header.extra.get("class_names") or {}
    where = f"{storage.shown(path)}: its palette"
    palettes = {key: palette_of(rows, where=where) for key, rows in (header.extra.get("palettes") or {}).items()}
    made = Loaded(recipe, stage, model, catalog, header.sha256, stage_sha256, names, palettes, header.presets)
    return attrs.evolve(made, folder=storage.parent(path))


_CALLER = 5  # of ldm_core.load, from a function that load calls: where a warning points to


def _warn_of_versions(header: artifacts.Header, path: str, now: Mapping[str, str]) -> None:
    changed = [f"{d} {v} (installed: {now.get(d, 'none')})" for d, v in header.versions.items() if now.get(d) != v]
    if changed:
        warnings.warn(f"{path} was made with {', '.join(changed)}", VersionWarning, stacklevel=_CALLER + 1)


def _described(header: artifacts.Header, stage_url: str, stage_sha256: str, catalog: Catalog) -> Recipe:
    """Resolve the model that a file's header describes, with the first stage beside it and no other place of its own.

    Raises what resolving raises, and ConfigError with every misfit of the parts.
    """
    where = storage.shown(header.url)
    with described_by(where):
        recipe = resolve_described(known_pixels.as_made(header.config), catalog)
        stage = header.config.get("first_stage")
        if isinstance(stage, Mapping) and stage.get("weights"):  # a reused one: its copy is what counts
            first_stage = attrs.evolve(recipe.first_stage, weights=stage_url, sha256=stage_sha256)
            recipe = attrs.evolve(recipe, first_stage=first_stage)
        if problems := [*model_misfits(without_unnamed(recipe, catalog)), *image_misfits(recipe)]:
            raise ConfigError([f"{where}: {line}" for line in problems])
    return recipe


def assemble(
    weights: ModelWeights,
    catalog: Catalog,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    sha256: str = "",
    where: str = "these weights",
) -> Loaded:
    """Build the parts of a codec's whole model; `sha256` is the hash of the files.

    Raises CheckpointError for a part alone, and for tensors that do not fit their recipe.
    """
    if weights.model is None or weights.first_stage is None:
        raise CheckpointError(_lone(weights, where))
    recipe = recipe_of(weights, catalog)
    place = device_named(device)
    parts = {"first_stage": weights.first_stage, "model": weights.model}
    stored = shapes_of({f"{name}.{k}": v for name, part in parts.items() for k, v in part.items()})
    with held_to(stored, where), unfilled():
        stage: Any = make_first_stage(recipe, catalog)
        model = make_model(recipe, catalog, stage)
    load_weights(stage, dict(weights.first_stage), f"{where}, first stage")
    load_weights(model, dict(weights.model), f"{where}, model")
    frozen(stage.to(place))
    frozen(model.to(place))
    settle(model, precision)
    return Loaded(recipe, stage, model, catalog, weights=sha256, class_names=weights.class_names)


def _lone(weights: ModelWeights, where: str) -> str:
    if weights.adapter is not None:
        return f"{where}: is an adapter; add it to a model with adapters.NAME.weights={where}"
    if weights.model is None:
        return (
            f"{where}: is a first stage alone, and nothing to sample from; see what it keeps with "
            "`Pipeline.reconstruct`, or train a model on it with `first_stage`"
        )
    if any(name.startswith("denoiser.") for name in weights.model):
        return f"{where}: is a denoiser without a first stage; give the first stage with `first_stage=PATH_OR_URL`"
    return f"{where}: is a conditioner alone, and nothing to sample from"
