"""Whole pipelines by their model_index.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ldm_core.contracts.codec import ModelWeights, Recognised, Source, overlay
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.autoencoder.keys import CLASSES as AUTOENCODERS
from ldm_plugin_diffusers.autoencoder.read import Autoencoder
from ldm_plugin_diffusers.component import ReadPart
from ldm_plugin_diffusers.folder import config_of, stored_in
from ldm_plugin_diffusers.pipeline.component import READERS, Found
from ldm_plugin_diffusers.pipeline.layouts import INDEX, SCHEDULER, TOKENIZER, UNET, Layout, left_out, named
from ldm_plugin_diffusers.scheduler.read import read_scheduler
from ldm_plugin_diffusers.text.bert import read_bert, with_wordpiece
from ldm_plugin_diffusers.text.clip import read_clip, with_byte_pairs
from ldm_plugin_diffusers.text.encoder import TextEncoder
from ldm_plugin_diffusers.unet.keys import CROSS, PLAIN
from ldm_plugin_diffusers.unet.read import Denoiser
from ldm_plugin_diffusers.values import Plain, shown, together
from ldm_plugin_diffusers.weights import Stored, misfits

SIZES = (256, 512)
"""Candidates for an unknown image size."""
STABLE = "StableDiffusionPipeline"


def read_pipeline(source: Source, variant: str) -> Found:
    """A folder with a model_index.json. ConfigError for a pipeline or a setting beyond our parts."""
    index = config_of(source, INDEX)
    name = index.get("_class_name")
    layout = named(name, source.url)
    notes = left_out(source, index, layout)
    makers: dict[str, Callable[[], Any]] = {SCHEDULER: lambda: _scheduler(source, name == STABLE)}
    for folder in layout.weights:
        plain = config_of(source, f"{folder}/config.json")
        stored, said = stored_in(source, folder, variant)
        makers[folder] = partial(_part, source, layout, folder, plain, stored)
        notes += said
    parts = together(makers)
    scheduler, said = parts.pop(SCHEDULER)
    recipe = _recipe(source, layout, parts)
    for part in parts.values():
        misfits(part.weights, part.stored)
        notes += part.notes
    notes += said
    recipe |= scheduler
    if name == STABLE:
        recipe["guidance"] = {"use": "cfg", "scale": 7.5}  # the default of its call
    recipe = overlay(recipe, source.given)
    return Found(
        said=Recognised(
            what=f"{layout.what} ({name})",
            holds="model",
            recipe=recipe,
            unknown={} if "image_size" in recipe else {"image_size": SIZES},
            notes=notes,
            parameters={folder: part.stored.parameters for folder, part in parts.items()},
        ),
        load=lambda: _load(recipe, layout.stage, parts, notes),
    )


def _recipe(source: Source, layout: Layout, parts: Plain) -> dict[str, Any]:
    """Plain recipe values of the parts. CheckpointError if they do not belong together."""
    stage: Autoencoder = parts[layout.stage]
    unet: Denoiser = parts[UNET]
    text: TextEncoder | None = parts.get(layout.text)
    shape, z = unet.shape, stage.shape.z_channels
    line = ""
    if (shape.inputs, shape.outputs) != (z, z):
        line = f"unet has in_channels {shape.inputs} and out_channels {shape.outputs}, the latents {z}"
    elif text is not None and shape.crossattn != text.width:
        line = f"unet has cross_attention_dim {shape.crossattn}, the text encoder's vectors {text.width}"
    elif shape.vector:
        line = "unet takes a vector (class_embed_type or addition_embed_type), which this pipeline has none of"
    if line:
        raise CheckpointError(f"{source.url}: {line}")
    recipe = {"conditioners": [], **stage.recipe(), **unet.recipe(), **(text.recipe() if text is not None else {})}
    if unet.sample_size:
        recipe["image_size"] = [length * stage.factor for length in unet.sample_size]
    return recipe


def _load(recipe: Plain, stage: str, parts: Mapping[str, ReadPart], notes: list[str]) -> ModelWeights:
    taken = {folder: part.read() for folder, part in parts.items()}
    return ModelWeights(
        recipe=recipe,
        first_stage=taken[stage].tensors,
        model={k: v for folder, each in taken.items() if folder != stage for k, v in each.tensors.items()},
        missing=[f"{folder}/{name}" for folder, each in taken.items() for name in each.missing],
        unexpected=[f"{folder}/{name}" for folder, each in taken.items() for name in each.unexpected],
        notes=notes,
    )


def _part(source: Source, layout: Layout, folder: str, plain: Plain, stored: Stored) -> ReadPart:
    if folder == layout.text and layout.use == "clip_text":
        return with_byte_pairs(read_clip(plain, folder, stored), source, TOKENIZER)
    if folder == layout.text:
        return with_wordpiece(read_bert(plain, folder, stored), source, TOKENIZER)
    name = plain.get("_class_name")
    allowed = list(AUTOENCODERS) if folder == layout.stage else [CROSS if layout.text else PLAIN]
    if name not in allowed:
        raise ConfigError(f"{folder}: _class_name is {shown(name)}; this pipeline can have: {', '.join(allowed)}")
    return READERS[str(name)](plain, folder, stored)


def _scheduler(source: Source, repaired: bool) -> tuple[dict[str, Any], list[str]]:
    plain = dict(config_of(source, "scheduler/scheduler_config.json"))
    notes = []
    if repaired:  # StableDiffusionPipeline does this to old configs
        for key, default, old, new in (("steps_offset", 0, 0, 1), ("clip_sample", False, True, False)):
            if plain.get(key, default) == old:
                notes.append(f"scheduler: {key} is taken as {str(new).lower()}, as StableDiffusionPipeline does")
            plain[key] = new
    out, said = read_scheduler(plain, "scheduler", source.given)
    return out, [*notes, *said]
