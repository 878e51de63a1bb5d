"""Facts from a configuration beside a file, or in its metadata, beyond its tensors. Imports no torch.

Values only: no class named in such a configuration is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import attrs

from ldm_core.contracts import EMPTY
from ldm_core.contracts.codec import Source, TensorFile
from ldm_core.errors import LDMError, clean, quoted
from ldm_core.weights.containers import configs
from ldm_plugin_compvis.shapes.unet import UNetShapes

METADATA = "compvis_config"
"""Under this key of a file's metadata, written by this package: the text of the configuration."""
OWN = "ldm_core"
"""Key of a configuration written by this package: plain recipe values of the parts."""
_FEW = 8
_PREDICTIONS = {"eps": "eps", "epsilon": "eps", "x0": "x0", "v": "v", "v_prediction": "v", "v-prediction": "v"}


@attrs.frozen(kw_only=True)
class Hints:
    """Plain recipe values, the `scale_factor`, the condition's name; `where` for the notes.

    `normalization`: of the latents of a first stage by itself, mean and std by channel. `text_layer`: the name of the
    condition's layer in a CLIP text encoder's configuration; ``""`` if there is none.
    """

    recipe: Mapping[str, Any] = attrs.field(default=EMPTY)
    scale_factor: float | None = None
    cond_key: str = ""
    text_layer: str = ""
    scale_by_std: bool = False
    where: str = ""
    latent_size: tuple[int, ...] = ()
    class_names: Mapping[str, Sequence[str]] = attrs.field(default=EMPTY)
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    notes: tuple[str, ...] = ()


def hints_of(source: Source, file: TensorFile, unet: UNetShapes | None) -> Hints:
    """The hints of a file: its metadata first, then a YAML file beside it with the file's own widths."""
    notes: list[str] = []
    found: Hints | None = None
    plain: Mapping[str, Any] | None
    if text := file.metadata.get(METADATA, ""):
        try:
            plain = configs.parse(text.encode(), f"{METADATA}.yaml", METADATA)
        except LDMError as error:
            notes.append(f"the configuration in its metadata does not read: {error}")
        else:
            if wrong := _malformed(plain):
                notes.append(f"the configuration in its metadata is left aside: {wrong}")
            else:
                found = _hints(plain, "its metadata")
    for name in () if found else _beside(source):
        try:
            plain = source.config(name)
        except LDMError as error:
            notes.append(f"{name}: not read: {error}")
            continue
        if not isinstance(plain, Mapping) or not isinstance(plain.get("model"), Mapping):
            continue
        if wrong := _malformed(plain) or _misfit(plain, unet):
            notes.append(f"{name}: left aside: {wrong}")
            continue
        found = _hints(plain, name)
        break
    found = found or Hints()
    recipe = dict(found.recipe)
    spoken = str(file.metadata.get("modelspec.prediction_type", "")).lower()
    if "parameterization" not in recipe and spoken in _PREDICTIONS:
        recipe["parameterization"] = _PREDICTIONS[spoken]
    width, _, height = str(file.metadata.get("modelspec.resolution", "")).lower().partition("x")
    if "image_size" not in recipe and not found.latent_size and width.isdigit() and height.isdigit():
        recipe["image_size"] = [int(height), int(width)]
    return attrs.evolve(found, recipe=recipe, notes=(*found.notes, *notes))


def _beside(source: Source) -> Iterator[str]:
    """YAML files beside the file, the likeliest first."""
    stem = PurePosixPath(source.url.split("?")[0]).stem
    files = [n for n in source.names if n.endswith((".yaml", ".yml")) and "/" not in n]
    wanted = [f"{stem}.yaml", f"{stem}.yml", "config.yaml", "model.yaml"]
    yield from sorted(files, key=lambda n: (wanted.index(n) if n in wanted else len(wanted), n))[:_FEW]


def _mapping(value: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _network(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    params = _mapping(plain, "model", "params")
    return _mapping(params, "unet_config", "params") or _mapping(params, "network_config", "params")


def _malformed(plain: Mapping[str, Any]) -> str:
    """The first part in a configuration of ours without the form of one, in words; "" if there is none."""
    for key, value in _mapping(plain, OWN).items():
        if key in ("image_size", "image_channels"):
            good = all(type(n) is int and n > 0 for n in (value if isinstance(value, list) and value else [value]))
        elif key == "conditioners":
            good = isinstance(value, list) and all(_is_part(row) for row in value)
        else:
            good = key in ("class_names", "normalization") or isinstance(value, str) or _is_part(value)
        if not good:
            return f"{OWN}.{clean(key, 40)} is {quoted(value)}"
    return ""


def _is_part(value: Any) -> bool:
    """True for a component's settings with its name."""
    return (
        isinstance(value, Mapping)
        and all(isinstance(key, str) for key in value)
        and isinstance(value.get("use"), str)
        and isinstance(value.get("name", ""), str)
    )


def _misfit(plain: Mapping[str, Any], unet: UNetShapes | None) -> str:
    """A difference between a configuration's U-Net and the file's, in words, or ""."""
    network = _network(plain)
    if unet is None or not network:
        return "it describes another model (it has a U-Net)" if network else ""
    own = {"model_channels": unet.fields["channels"], "channel_mult": list(unet.fields["channel_mult"])}
    own |= {"num_res_blocks": unet.fields["res_blocks"]} | ({"context_dim": unet.crossattn} if unet.crossattn else {})
    for key, value in own.items():
        said = list(network[key]) if isinstance(network.get(key), Sequence) else network.get(key)
        if said is not None and said != value:
            return f"it describes another model ({key} is {said}, in the file {value})"
    return ""


def _hints(plain: Mapping[str, Any], where: str) -> Hints:
    params = _mapping(plain, "model", "params")
    own = _mapping(plain, OWN)
    recipe: dict[str, Any] = {k: v for k, v in own.items() if k not in ("class_names", "normalization")}
    names = {k: tuple(map(str, v)) for k, v in _mapping(own, "class_names").items() if isinstance(v, list)}
    network = _network(plain)
    if isinstance(per_head := network.get("num_head_channels"), int) and per_head > 0:
        denoiser = {"head_channels": per_head}
    elif isinstance(heads := network.get("num_heads"), int) and heads > 0:
        denoiser = {"heads": heads, "head_channels": 0}
    else:
        denoiser = {}
    if network.get("use_new_attention_order") is True:
        denoiser["new_attention_order"] = True
    if denoiser and "denoiser" not in recipe:
        recipe["denoiser"] = denoiser
    prediction = _PREDICTIONS.get(str(params.get("parameterization", "")))
    scaling = str(_mapping(params, "denoiser_config", "params", "scaling_config").get("target", ""))
    if scaling.endswith(("EpsScaling", "VScaling")):
        prediction = "eps" if scaling.endswith("EpsScaling") else "v"
    if network and not prediction and "unet_config" in params:
        prediction = "eps"  # what these configurations leave out
    if prediction:
        recipe.setdefault("parameterization", prediction)
    if params.get("loss_type") in ("l1", "l2"):
        recipe.setdefault("objective", {"use": "simple", "loss": params["loss_type"]})
    if "linear_start" in params or "beta_schedule" in params:
        recipe.setdefault("schedule", _schedule(params))
    mean, std = (_numbers(_mapping(own, "normalization").get(key)) for key in ("mean", "std"))
    size = params.get("image_size")
    sizes = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list) else ()
    scale = params.get("scale_factor")
    if scale is None and "unet_config" in params and params.get("scale_by_std") is not True:
        scale = 1.0  # what these configurations leave out
    return Hints(
        recipe=recipe,
        scale_factor=float(scale) if isinstance(scale, int | float) and 0 < scale < math.inf else None,
        cond_key=str(params.get("cond_stage_key") or ""),
        text_layer=_text_layer(params),
        scale_by_std=params.get("scale_by_std") is True,
        class_names=names,
        normalization=(mean, std) if mean and len(mean) == len(std) and min(std) > 0 else None,
        where=where,
        latent_size=sizes if all(isinstance(s, int) for s in sizes) else (),
    )


def _text_layer(params: Mapping[str, Any]) -> str:
    """The layer named in a CLIP text encoder's configuration, or meant by one without a name."""
    embedders = _mapping(params, "conditioner_config", "params").get("emb_models")
    first = embedders[0] if isinstance(embedders, list) and embedders else params.get("cond_stage_config")
    target = str(_mapping({"stage": first}, "stage").get("target", ""))
    if not target.endswith(("FrozenOpenCLIPEmbedder", "FrozenCLIPEmbedder")):
        return ""
    return str(_mapping({"stage": first}, "stage", "params").get("layer") or "last")


def _numbers(value: Any) -> tuple[float, ...]:
    """A list of finite numbers; none for anything else."""
    good = isinstance(value, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    return tuple(map(float, value)) if good else ()


def _schedule(params: Mapping[str, Any]) -> dict[str, Any]:
    names = {"beta_schedule": "kind", "linear_start": "beta_start", "linear_end": "beta_end", "timesteps": "steps"}
    published = {"linear_start": 1e-4, "linear_end": 2e-2}  # what these configurations leave out
    said = {ours: params.get(theirs, published.get(theirs)) for theirs, ours in names.items()}
    return {"use": "vp", **{k: v for k, v in said.items() if v is not None}}
