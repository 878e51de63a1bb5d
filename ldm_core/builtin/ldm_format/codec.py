"""The package's own files as a codec: a run's folder, or its first stage by itself."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import attrs

from ldm_core.builtin.ldm_format.config import LdmCodecConfig
from ldm_core.config.documents import dump_yaml
from ldm_core.config.structure import digest
from ldm_core.contracts.codec import Codec, ModelWeights, Recognised, Source, TensorFile, Written, overlay
from ldm_core.contracts.site import Site
from ldm_core.contracts.values import EMPTY
from ldm_core.data.known_pixels import as_made
from ldm_core.errors import CheckpointError, ConfigError, clean
from ldm_core.recipe import artifacts

if TYPE_CHECKING:
    from torch import Tensor

RECIPE_FILE = "recipe.yaml"


class LdmCodec(Codec):
    """A folder with ``first_stage.safetensors`` and ``model.safetensors``, or one of the two as a file.

    The headers hold the whole recipe, so nothing is ever unknown.
    """

    def __init__(self, config: LdmCodecConfig, site: Site) -> None:
        del site
        self.alone = config.alone

    def recognise(self, source: Source) -> Recognised | None:
        """Read the headers; None without our metadata."""
        found = _headers(source)
        if not found:
            return None
        model, stage = found.get("model"), found.get("first_stage")
        if "adapter" in found:
            what, holds = f"an adapter of ldm-core ('{clean(found['adapter'][0]['use'], 60)}')", "adapter"
        elif model is not None and stage is not None:
            what, holds = "a model of ldm-core, with its first stage", "model"
        elif model is not None:
            what, holds = "a model of ldm-core without its first stage", "denoiser"
        else:
            what, holds = "a first stage of ldm-core", "first_stage"
        base = found["adapter"][0].get("base_sha256") if holds == "adapter" else ""
        counts = {name: _count(file) for name, (_, file) in found.items()}
        averaged = any(bool(body.get("averaged")) for body, _ in found.values())
        notes = [f"trained on the model with sha256 {clean(base, 64)}"] if base else []
        if model is not None and (names := artifacts.preset_names(model[1].metadata.get(artifacts.PRESETS, ""))):
            notes.append(f"has the presets {', '.join(names)}; they stay with this file, a conversion leaves them out")
        recipe = _recipe(source, found)
        return Recognised(what=what, holds=holds, recipe=recipe, parameters=counts, ema=averaged, notes=notes)

    def read(self, source: Source) -> ModelWeights:
        """Every tensor of the files, as they are."""
        found = _headers(source)
        if not found:
            raise CheckpointError(f"{source.url}: was not written by ldm-core (no metadata of its own)")
        tensors = {name: {k: file.read(k) for k in file.infos} for name, (_, file) in found.items()}
        names = found["model"][0].get("class_names") if "model" in found else None
        return ModelWeights(
            recipe=_recipe(source, found),
            first_stage=tensors.get("first_stage"),
            model=tensors.get("model"),
            adapter=tensors.get("adapter"),
            base=found["adapter"][0].get("base_sha256", "") if "adapter" in found else "",
            class_names=names if isinstance(names, Mapping) else {},
        )

    def write(self, weights: ModelWeights, name: str) -> Written:
        """A run's folder: ``recipe.yaml``, ``first_stage.safetensors`` and, last, ``model.safetensors``; of an adapter
        one file, or a folder with that file."""
        if weights.adapter is not None:
            place = "" if name.endswith(".safetensors") else artifacts.ADAPTER_FILE
            return _written({place: lambda: _adapter_file(weights)})
        recipe = dict(weights.recipe)
        text = {RECIPE_FILE: lambda: dump_yaml(recipe).encode()}
        denoises = any(k.startswith("denoiser.") for k in weights.model or ())
        if weights.first_stage is None and self.alone and denoises:
            return _written({artifacts.MODEL_FILE: lambda: _model_file(recipe, weights, "")}, text)
        if weights.first_stage is None:
            raise ConfigError(
                f"{name}: these are the weights of a {'denoiser' if denoises else 'conditioner'} alone, and a run's "
                "folder has a first stage; give its path or URL as `first_stage`"
            )

        def stage() -> _File:
            return _stage_file(recipe, weights.first_stage or {})

        if weights.model is None:
            return _written({artifacts.STAGE_FILE: stage}, text)
        model = lambda: _model_file(recipe, weights, _sha256(stage()))  # noqa: E731
        return _written({artifacts.STAGE_FILE: stage, artifacts.MODEL_FILE: model}, text)


@attrs.frozen
class _File:
    """A file of ours, not yet written: its tensors and its metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def write(self, file: BinaryIO) -> None:
        """Write it, tensor by tensor."""
        from ldm_core.model.fill import write_tensors

        write_tensors(file, self.tensors, self.metadata)


def _written(files: Mapping[str, Callable[[], _File]], text: Mapping[str, Callable[[], bytes]] = EMPTY) -> Written:
    """The `text` files, then those of tensors, to be had whole or piece by piece."""

    def whole(make: Callable[[], _File]) -> bytes:
        from ldm_core.model import fill

        return fill.whole(make().write)

    return Written(
        files={**text, **{name: partial(whole, make) for name, make in files.items()}},
        writers={name: partial(lambda make, file: make().write(file), make) for name, make in files.items()},
    )


class _Hash(io.RawIOBase):
    """The SHA-256 of all that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Take bytes in."""
        self.digest.update(data)
        return len(data)


def _sha256(file: _File) -> str:
    hashed = _Hash()
    file.write(cast("BinaryIO", hashed))
    return hashed.digest.hexdigest()


def _headers(source: Source) -> dict[str, tuple[dict[str, Any], TensorFile]]:
    """Our own header and the tensors by what they are: ``model``, ``first_stage``."""
    names = [""]
    if source.folder:
        ours = [n for n in (artifacts.STAGE_FILE, artifacts.MODEL_FILE) if n in source.names]
        names = ours or [n for n in (artifacts.ADAPTER_FILE,) if n in source.names]
    found: dict[str, tuple[dict[str, Any], TensorFile]] = {}
    for name in names:
        file = source.tensors(name)
        text = file.metadata.get("ldm_core")
        if text is None:
            continue
        body = artifacts.parse_body(text, file.url)
        found[body["kind"]] = (body, file)
    return found


def _recipe(source: Source, found: Mapping[str, tuple[dict[str, Any], TensorFile]]) -> dict[str, Any]:
    plain: dict[str, Any] = dict(as_made(found["model"][0]["config"])) if "model" in found else {}
    if "adapter" in found:
        body = found["adapter"][0]
        plain["adapters"] = [{"use": body["use"], **body["config"]}]
    if "first_stage" in found:
        body = found["first_stage"][0]
        plain["first_stage"] = {"use": body["use"], **body["config"]}
        for key in ("image_size", "image_channels"):
            if body.get(key) and key not in plain:
                plain[key] = body[key]
    return overlay(plain, source.given)


def _count(file: TensorFile) -> int:
    return sum(math.prod(info.shape) for info in file.infos.values())


def _stage_file(recipe: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _File:
    part = dict(recipe["first_stage"])
    use = part.pop("use")
    known = {key: recipe[key] for key in ("image_channels", "image_size") if key in recipe}
    made = {"converted": {"first_stage": recipe["first_stage"], **known}}
    meta = artifacts.metadata("first_stage", use, part, {}, identity=digest(made), **known)
    return _File(tensors, meta)


def _model_file(recipe: Mapping[str, Any], weights: ModelWeights, stage_sha256: str) -> _File:
    meta = artifacts.metadata(
        "model",
        recipe["denoiser"]["use"],
        dict(recipe),
        {},  # of no version: the same source gives the same bytes, and their hash is an identity
        identity=digest({"converted": dict(recipe)}),
        first_stage_sha256=stage_sha256,
        class_names={key: list(names) for key, names in weights.class_names.items()},
    )
    return _File(weights.model or {}, meta)


def _adapter_file(weights: ModelWeights) -> _File:
    part = dict(weights.recipe["adapters"][0])
    use = part.pop("use")
    base = {"base_sha256": weights.base} if weights.base else {}
    meta = artifacts.metadata("adapter", use, part, {}, identity=digest({"converted": {"use": use, **part}}), **base)
    return _File(weights.adapter or {}, meta)
