"""Weights by path or URL, whoever wrote them: ours or foreign, whole or with a first stage from elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.overrides import apply_overrides
from ldm_core.contracts.codec import ModelWeights, Recognised
from ldm_core.contracts.values import EMPTY
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.artifacts import is_native
from ldm_core.recipe.keys import SINGLE
from ldm_core.weights.codecs import read_with, recognise, require_known
from ldm_core.weights.complete import recipe_of
from ldm_core.weights.source import open_source

if TYPE_CHECKING:
    from collections.abc import Iterable


NATIVE = "ldm"
"""The codec of our own files."""
_CODEC = "codec"


@attrs.frozen(kw_only=True)
class Wanted:
    """Settings of a user for weights, beside their place.

    `codec`: ask this one alone. `given`: plain recipe values that overrule the recognised ones. `options`: those of the
    codec (``{"ema": False}``). `sha256`: the expected hash of the file. `first_stage`: path or URL of one, for a
    denoiser without one. `partial`: missing or unexpected names are notes, and no error.
    """

    codec: str = ""
    given: Mapping[str, Any] = EMPTY
    options: Mapping[str, Any] = EMPTY
    sha256: str = ""
    first_stage: str = ""
    partial: bool = False

    @classmethod
    def of(cls, settings: Iterable[str], **more: Any) -> Wanted:
        """From ``KEY=VALUE`` settings, of which ``codec.KEY=VALUE`` are options of the codec."""
        plain: dict[str, Any] = {}
        whole_first = sorted(settings, key=lambda text: "." in text.partition("=")[0])
        apply_overrides(plain, whole_first, (*SINGLE, _CODEC))
        options = plain.pop(_CODEC, {})
        if not isinstance(options, Mapping):
            raise ConfigError(
                f"codec={options}: give the name of the codec as `codec`; its options are codec.KEY=VALUE"
            )
        return cls(given=plain, options=options, **more)

    def reading_with(self, options: Mapping[str, Any]) -> Wanted:
        """The same with other options of the codec."""
        return attrs.evolve(self, options=options)

    @property
    def says_nothing(self) -> bool:
        """True if the header alone is enough to read weights of our own."""
        return not (self.given or self.options or self.first_stage or self.partial) and self.codec in ("", NATIVE)


@attrs.frozen(kw_only=True)
class Opened:
    """Weights as read: the `codec`, its answer, and `sha256`, the hash of the bytes."""

    url: str
    codec: str
    found: Recognised
    weights: ModelWeights
    sha256: str


def open_weights(url: str, catalog: Catalog, wanted: Wanted | None = None) -> Opened:
    """Recognise and read the weights at `url`. Raises what :mod:`ldm_core.weights.codecs` raises."""
    wanted = wanted or Wanted()
    place, beside = _of_our_own(url) if wanted.codec in ("", NATIVE) and is_native(url) else (url, "")
    source = open_source(place, wanted.given, sha256=wanted.sha256)
    name, codec, found = recognise(source, catalog, wanted.codec, wanted.options)
    _require_options(name, wanted, catalog)
    require_known(found, source.url)
    weights = read_with(name, codec, found, source, catalog, wanted.partial)
    opened = Opened(url=storage.shown(url), codec=name, found=found, weights=weights, sha256=source.sha256())
    if not wanted.first_stage and (not beside or weights.adapter is not None):
        return opened
    if weights.adapter is not None:
        raise ConfigError(f"`first_stage`: {opened.url} is an adapter; leave it out")
    if weights.first_stage is not None and wanted.first_stage:
        raise ConfigError(f"`first_stage`: {opened.url} has a first stage of its own; leave it out")
    if weights.model is None:
        raise ConfigError(f"`first_stage`: {opened.url} is a first stage itself; leave it out")
    return _with_first_stage(opened, wanted.first_stage or beside, catalog, wanted)


def _of_our_own(url: str) -> tuple[str, str]:
    """Place to open of our files, and the place of the first stage beside a model's file, if it is another."""
    if not url.endswith(".safetensors"):
        _require_pair(storage.join(url, artifacts.MODEL_FILE), storage.join(url, artifacts.STAGE_FILE))
        return url, ""
    stage = storage.join(storage.parent(url), artifacts.STAGE_FILE)
    if storage.base_name(url) == artifacts.STAGE_FILE or not storage.exists(stage):
        return url, ""
    _require_pair(url, stage)
    return url, stage


def _require_pair(model: str, stage: str) -> None:
    if not storage.exists(model) or not storage.exists(stage):
        return
    header, _ = artifacts.raw_header(model)
    if "ldm_core" in (header.get("__metadata__") or {}) and '"kind": "model"' in header["__metadata__"]["ldm_core"]:
        artifacts.require_first_stage(artifacts.read_header(model, "model", sha256="unread"), stage)


def _require_options(name: str, wanted: Wanted, catalog: Catalog) -> None:
    """ConfigError for an option that the codec, found by asking all of them, does not have."""
    entry, _ = catalog.get("codec", name)
    fields = [field.name for field in attrs.fields(entry.component.config)]
    unknown = [key for key in wanted.options if key not in fields]
    if unknown:
        raise ConfigError(
            [
                f"codec.{key}: codec '{name}' has no such option (it has: {', '.join(fields) or 'none'})"
                for key in unknown
            ]
        )


def _with_first_stage(opened: Opened, url: str, catalog: Catalog, wanted: Wanted) -> Opened:
    given = {k: v for k, v in wanted.given.items() if k in ("first_stage", "image_size", "image_channels")}
    other = open_weights(url, catalog, Wanted(given=given))
    where = storage.shown(url)
    if other.weights.first_stage is None:
        raise CheckpointError(f"`first_stage`: {where} holds no first stage, but {other.found.what}")
    recipe = {**opened.weights.recipe, "first_stage": other.weights.recipe["first_stage"]}
    for key in ("image_channels", "image_size"):
        if key in other.weights.recipe:
            recipe.setdefault(key, other.weights.recipe[key])
    made = attrs.evolve(
        opened.weights,
        recipe=recipe,
        first_stage=other.weights.first_stage,
        notes=(*opened.weights.notes, f"first stage: {other.found.what}, from {where}"),
    )
    latent = recipe_of(attrs.evolve(made, model=None), catalog).first_stage.config.latent
    own = made.latent
    if own is None and "first_stage" in opened.weights.recipe:
        own = recipe_of(opened.weights, catalog).first_stage.config.latent
    if own is not None and own.channels != latent.channels:
        raise CheckpointError(
            f"`first_stage`: {where} makes latents of {latent.channels} channels, and the denoiser of {opened.url} "
            f"works on {own.channels}; give the first stage that it was trained with"
        )
    counts = {**opened.found.parameters, **other.found.parameters}
    found = attrs.evolve(opened.found, holds="model", parameters=counts)
    both = hashlib.sha256(f"{opened.sha256}\n{other.sha256}\n".encode()).hexdigest()
    return attrs.evolve(opened, weights=made, found=found, sha256=both)
