"""Whole pipelines by their model_index.json: LDMPipeline, LDMTextToImagePipeline, StableDiffusionPipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.contracts.codec import ModelWeights, Recognised, Source, overlay
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.autoencoder import read as autoencoders
from ldm_plugin_diffusers.folder import config_of, stored_in
from ldm_plugin_diffusers.scheduler.read import read_scheduler
from ldm_plugin_diffusers.text import bert as texts
from ldm_plugin_diffusers.text import clip
from ldm_plugin_diffusers.unet import read as unets
from ldm_plugin_diffusers.values import shown
from ldm_plugin_diffusers.weights import Stored, misfits, take

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model_index.json"
SIZES = (256, 512)
"""Candidates for an image size that nothing says."""


@attrs.frozen(kw_only=True)
class Layout:
    """What a pipeline's class is made of: the folder of each role ("" = it has none)."""

    what: str
    stage: str
    text: str = ""
    tokenizer: str = ""
    extra: Sequence[str] = ()


LAYOUTS: Mapping[str, Layout] = {
    "LDMPipeline": Layout(what="latent diffusion, unconditional", stage="vqvae"),
    "LDMTextToImagePipeline": Layout(
        what="latent diffusion, text to image", stage="vqvae", text="bert", tokenizer="tokenizer"
    ),
    "StableDiffusionPipeline": Layout(
        what="Stable Diffusion, text to image",
        stage="vae",
        text="text_encoder",
        tokenizer="tokenizer",
        extra=("safety_checker", "feature_extractor", "image_encoder"),
    ),
}
"""The pipelines that are read and written."""


@attrs.frozen(kw_only=True)
class Found:
    """What a source holds: `said` of it, and its weights once they are asked for."""

    said: Recognised
    load: Callable[[], ModelWeights]


def read_pipeline(source: Source, variant: str) -> Found:
    """A folder with a model_index.json. ConfigError for a pipeline that is none of :data:`LAYOUTS`."""
    index = config_of(source, INDEX)
    name = index.get("_class_name")
    layout = LAYOUTS.get(name) if isinstance(name, str) else None
    if layout is None:
        raise ConfigError(
            f"{source.url}: {INDEX}: _class_name is {shown(name)}; this package's parts can express: "
            f"{', '.join(LAYOUTS)}. One of its folders (vae, unet) can be given by itself"
        )
    folders = [layout.stage, "unet", "scheduler", *([layout.text, layout.tokenizer] if layout.text else [])]
    notes = _held(source, index, folders, layout)
    stored: dict[str, Stored] = {}
    configs: dict[str, Mapping[str, Any]] = {}
    for folder in (f for f in folders if f not in ("scheduler", "tokenizer")):
        configs[folder] = config_of(source, f"{folder}/config.json")
        stored[folder], said = stored_in(source, folder, variant)
        notes += said
    problems: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    stage = attempt(lambda: _stage(configs[layout.stage], layout.stage))
    unet = attempt(lambda: _unet(configs["unet"], bool(layout.text)))
    text: texts.TextEncoder | None = None
    state = b""
    if layout.text:
        text, state = attempt(lambda: _text(source, configs[layout.text], layout, stored)) or (None, b"")
    plan = attempt(lambda: _scheduler(source, name == "StableDiffusionPipeline"))
    if problems:
        raise ConfigError(problems)
    if (line := _unequal(stage, unet, text)) is not None:
        raise CheckpointError(f"{source.url}: {line}")
    misfits(stage.weights, stored[layout.stage])
    misfits(unet.weights, stored["unet"])
    scheduler, said = plan
    notes += [*stage.notes, *unet.notes, *(text.notes if text else ()), *said]
    recipe: dict[str, Any] = {
        "image_channels": stage.shape.image_channels,
        "first_stage": {"use": stage.use, **stage.fields},
        "conditioners": [{"use": text.use, "name": text.name, **text.fields}] if text else [],
        "denoiser": {"use": "unet", **unet.fields},
        **scheduler,
    }
    if name == "StableDiffusionPipeline":
        recipe["guidance"] = {"use": "cfg", "scale": 7.5}  # the default of its call
    if unet.sample_size:
        recipe["image_size"] = [length * stage.factor for length in unet.sample_size]
    recipe = overlay(recipe, source.given)
    said_of_it = Recognised(
        what=f"{layout.what} ({name})",
        holds="model",
        recipe=recipe,
        unknown={} if "image_size" in recipe else {"image_size": SIZES},
        notes=notes,
        parameters={folder: each.parameters for folder, each in stored.items()},
    )

    def load() -> ModelWeights:
        tensors, taken = stage.read(stored[layout.stage])
        model, other = _denoiser(unet, stored["unet"])
        lacking = [*_in(layout.stage, taken.missing), *_in("unet", other.missing)]
        more = [*_in(layout.stage, taken.unexpected), *_in("unet", other.unexpected)]
        if text is not None:
            own, read = text.read(stored[layout.text], state)
            model |= {f"conditioners.{text.name}.{key}": value for key, value in own.items()}
            lacking += _in(layout.text, read.missing)
            more += _in(layout.text, read.unexpected)
        return ModelWeights(
            recipe=recipe, first_stage=tensors, model=model, missing=lacking, unexpected=more, notes=notes
        )

    return Found(said=said_of_it, load=load)


def _held(source: Source, index: Mapping[str, Any], folders: Sequence[str], layout: Layout) -> list[str]:
    """Notes on what is left out; CheckpointError where a part is missing, ConfigError where nobody knows one."""
    notes = []
    for folder in folders:
        entry = index.get(folder)
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(word, str) for word in entry):
            raise CheckpointError(f"{source.url}: {INDEX}: {folder} is {shown(entry)}; the pipeline needs that part")
    for key, entry in index.items():
        if str(key).startswith("_") or key in folders or not isinstance(entry, list) or entry in ([None, None], []):
            continue
        if key not in layout.extra:
            raise ConfigError(f"{source.url}: {INDEX}: unknown part {str(key)[:60]} ({shown(entry)}); remove it")
        notes.append(f"{key} is left out")
    return notes


def _stage(plain: Mapping[str, Any], where: str) -> autoencoders.Autoencoder:
    if plain.get("_class_name") not in list(autoencoders.CLASSES):
        raise ConfigError(
            f"{where}: _class_name is {shown(plain.get('_class_name'))}; this package's parts can express: "
            f"{', '.join(autoencoders.CLASSES)}"
        )
    return autoencoders.read_autoencoder(plain, where)


def _unet(plain: Mapping[str, Any], text: bool) -> unets.Denoiser:
    wanted = "UNet2DConditionModel" if text else "UNet2DModel"
    if plain.get("_class_name") != wanted:
        raise ConfigError(f"unet: _class_name is {shown(plain.get('_class_name'))}; this pipeline's is {wanted}")
    return unets.read_unet(plain, "unet")


def _text(
    source: Source, plain: Mapping[str, Any], layout: Layout, stored: dict[str, Stored]
) -> tuple[texts.TextEncoder, bytes]:
    if layout.text == "text_encoder":
        encoder, stored[layout.text] = clip.read_clip(plain, layout.text, stored[layout.text])
        state, fields = clip.read_tokenizer(source, layout.tokenizer)
    else:
        encoder = texts.read_bert(plain, layout.text, stored[layout.text])
        state, fields = texts.read_wordpiece(source, layout.tokenizer)
    misfits(encoder.weights, stored[layout.text])
    return attrs.evolve(encoder, fields={**encoder.fields, **fields}), state


def _scheduler(source: Source, repaired: bool) -> tuple[dict[str, Any], list[str]]:
    plain = dict(config_of(source, "scheduler/scheduler_config.json"))
    notes = []
    if repaired:  # what StableDiffusionPipeline does to old configs
        for key, old in (("steps_offset", 0), ("clip_sample", True)):
            new = 1 if key == "steps_offset" else False
            if plain.get(key, new if key == "clip_sample" else old) == old:
                notes.append(f"scheduler: {key} is taken as {str(new).lower()}, as StableDiffusionPipeline does")
            plain[key] = new
    out, said = read_scheduler(plain, "scheduler", source.given)
    return out, [*notes, *said]


def _unequal(stage: autoencoders.Autoencoder, unet: unets.Denoiser, text: texts.TextEncoder | None) -> str | None:
    """What of the parts does not belong together."""
    z = stage.shape.z_channels
    if unet.shape.outputs != z or unet.concat:
        return f"unet has in_channels {unet.shape.inputs} and out_channels {unet.shape.outputs}, the latents {z}"
    if text is not None and unet.shape.crossattn != text.width:
        return f"unet has cross_attention_dim {unet.shape.crossattn}, the text encoder's vectors {text.width}"
    if unet.shape.vector:
        return "unet takes a vector (class_embed_type or addition_embed_type), which this pipeline has none of"
    return None


def _denoiser(unet: unets.Denoiser, stored: Stored) -> tuple[dict[str, Tensor], Any]:
    taken = take(unet.weights, stored)
    return {f"denoiser.{name}": tensor for name, tensor in taken.tensors.items()}, taken


def _in(folder: str, names: Sequence[str]) -> list[str]:
    return [f"{folder}/{name}" for name in names]


def read_component(source: Source, variant: str) -> Found | None:
    """A folder, or a file beside its config.json, of one component; None where its class is no known one."""
    plain = source.config("config.json")
    if not isinstance(plain, Mapping):
        return None
    classes = plain.get("architectures")
    name = plain.get("_class_name") or (classes[0] if isinstance(classes, list) and classes else None)
    kinds = {**dict.fromkeys(autoencoders.CLASSES, "first_stage"), **dict.fromkeys(unets.CLASSES, "denoiser")}
    kinds |= {texts.BERT: "conditioner", clip.CLASS: "conditioner"}
    if not isinstance(name, str) or name not in kinds:
        return None
    stored, notes = stored_in(source, "", variant)
    read = {"first_stage": _lone_stage, "denoiser": _lone_denoiser, "conditioner": _lone_text}[kinds[name]]
    made, recipe, said, load = read(plain, name, stored)
    misfits(made.weights, made.stored)
    recipe = overlay(recipe, source.given)
    notes += said
    found = Recognised(
        what=name, holds=kinds[name], recipe=recipe, notes=notes, parameters={kinds[name]: stored.parameters}
    )
    return Found(said=found, load=lambda: attrs.evolve(load(), recipe=recipe, notes=notes))


@attrs.frozen
class _Made:
    weights: Sequence[Any]
    stored: Stored


_Lone = tuple[_Made, dict[str, Any], Sequence[str], Callable[[], ModelWeights]]


def _lone_stage(plain: Mapping[str, Any], name: str, stored: Stored) -> _Lone:
    stage = autoencoders.read_autoencoder(plain, name)
    recipe: dict[str, Any] = {
        "first_stage": {"use": stage.use, **stage.fields},
        "image_channels": stage.shape.image_channels,
    }
    if stage.sample_size and not any(length % stage.factor for length in stage.sample_size):
        recipe["image_size"] = list(stage.sample_size)

    def load() -> ModelWeights:
        tensors, taken = stage.read(stored)
        return ModelWeights(recipe={}, first_stage=tensors, missing=taken.missing, unexpected=taken.unexpected)

    return _Made(stage.weights, stored), recipe, stage.notes, load


def _lone_denoiser(plain: Mapping[str, Any], name: str, stored: Stored) -> _Lone:
    unet = unets.read_unet(plain, name)

    def load() -> ModelWeights:
        model, taken = _denoiser(unet, stored)
        return ModelWeights(
            recipe={},
            model=model,
            latent=unet.latent,
            cond=unet.cond,
            missing=taken.missing,
            unexpected=taken.unexpected,
        )

    return _Made(unet.weights, stored), {"denoiser": {"use": "unet", **unet.fields}}, unet.notes, load


def _lone_text(plain: Mapping[str, Any], name: str, stored: Stored) -> _Lone:
    if name == clip.CLASS:
        text, stored = clip.read_clip(plain, name, stored)
    else:
        text = texts.read_bert(plain, name, stored)

    def load() -> ModelWeights:
        tensors, taken = text.read(stored, b"")
        model = {f"conditioners.{text.name}.{key}": value for key, value in tensors.items()}
        return ModelWeights(recipe={}, model=model, missing=taken.missing, unexpected=taken.unexpected)

    recipe = {"conditioners": [{"use": text.use, "name": text.name, **text.fields}]}
    notes = [*text.notes, f"{name}: it comes without its tokenizer, which lies in another folder"]
    return _Made(text.weights, stored), recipe, notes, load
