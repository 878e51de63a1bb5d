"""A model of ours as a folder of diffusers: a whole pipeline, or a first stage or denoiser by itself."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from ldm_core.contracts.codec import ModelWeights, Written
from ldm_core.errors import ConfigError
from ldm_plugin_diffusers.autoencoder.write import write_autoencoder
from ldm_plugin_diffusers.component import WrittenPart
from ldm_plugin_diffusers.folder import as_json
from ldm_plugin_diffusers.pipeline.layouts import INDEX, LAYOUTS, SCHEDULER, TOKENIZER, UNET
from ldm_plugin_diffusers.scheduler.write import write_scheduler
from ldm_plugin_diffusers.text.bert import write_bert
from ldm_plugin_diffusers.text.clip import write_clip
from ldm_plugin_diffusers.text.encoder import WrittenText
from ldm_plugin_diffusers.unet.write import write_unet
from ldm_plugin_diffusers.values import Plain, together

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "0.30.0"
"""The version of diffusers in the folders; later ones read them, too."""
WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
PIXELS = 8
"""Pixels of a latent cell in LDMTextToImagePipeline, whatever its first stage."""

_Files = dict[str, Callable[[], bytes]]


def write(weights: ModelWeights, name: str) -> Written:
    """The files of a folder for `weights` with a complete recipe. ConfigError with all parts without a pipeline."""
    last = name.rsplit("/", 1)[-1]
    if last.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".bin")):
        raise ConfigError(f"{last}: diffusers' format is a folder; give a name without a suffix")
    recipe, stage = weights.recipe, weights.first_stage
    if weights.model is None:
        if stage is None:
            raise ConfigError("there is nothing to write: neither a model nor a first stage")
        part = write_autoencoder(recipe, stage, shift=True)
        return _component("", part)
    denoiser = _below(weights.model, "denoiser.")
    if stage is None:
        if not denoiser:
            raise ConfigError("diffusers' format holds no conditioner by itself; write the whole model")
        size = math.ceil(max(recipe["image_size"]) / max(weights.latent.stride if weights.latent else (PIXELS,)))
        part = write_unet(recipe, denoiser, size)
        return _component("", part)
    return _pipeline(recipe, stage, weights.model)


def _pipeline(recipe: Plain, stage: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Written:
    name = _name(recipe)
    layout = LAYOUTS[name]
    problems = []
    if recipe["adapters"]:
        problems.append(f"adapters {', '.join(a['use'] for a in recipe['adapters'])}: they are no part of a pipeline")
    factor = 2 ** (len(recipe["first_stage"].get("channel_mult", [1])) - 1)
    height, width = recipe["image_size"]
    if not layout.use and height != width:
        problems.append(f"image_size [{height}, {width}]: LDMPipeline draws square images alone")
    makers: dict[str, Callable[[], Any]] = {
        layout.stage: lambda: write_autoencoder(recipe, stage),
        UNET: lambda: write_unet(recipe, _below(model, "denoiser."), max(height, width) // factor),
        SCHEDULER: lambda: write_scheduler(recipe),
        **({layout.text: lambda: _text(recipe["conditioners"][0], model)} if layout.text else {}),
    }
    made = together(makers, problems)
    config, said = made.pop(SCHEDULER)
    text: WrittenText | None = made.pop(layout.text, None)
    index: dict[str, Any] = {
        "_class_name": name,
        "_diffusers_version": VERSION,
        SCHEDULER: ["diffusers", config["_class_name"]],
        **{part: [None, None] for part in layout.extra},
        **({"requires_safety_checker": False} if layout.extra else {}),
    }
    files: _Files = {}
    writers: dict[str, Callable[[BinaryIO], object]] = {}
    notes: list[str] = []
    for folder, part in made.items():
        index[folder] = ["diffusers", part.class_name]
        component = _component(f"{folder}/", part)
        files |= component.files
        writers |= component.writers
        notes += part.notes
    files[f"{SCHEDULER}/scheduler_config.json"] = lambda: as_json({"_diffusers_version": VERSION, **config})
    notes += said
    if text is not None:
        index[layout.text] = [text.library, text.part.class_name]
        index[TOKENIZER] = ["transformers", text.tokenizer_class] if text.tokenizer else [None, None]
        component = _component(f"{layout.text}/", text.part, weights=TEXT_WEIGHTS)
        files |= component.files
        writers |= component.writers
        files |= {f"{TOKENIZER}/{file}": make for file, make in text.tokenizer.items()}
        notes += text.part.notes
    files[INDEX] = lambda: as_json(index)
    return Written(files=files, writers=writers, notes=[*notes, *_lost(recipe, name, factor)])


def _name(recipe: Plain) -> str:
    """The pipeline for the conditioners of a recipe."""
    uses = [row["use"] for row in recipe["conditioners"]]
    names = {layout.use: name for name, layout in LAYOUTS.items()}
    if len(uses) > 1 or any(use not in names for use in uses):
        raise ConfigError(
            f"conditioners {', '.join(uses)}: diffusers' latent pipelines hold none, or one of text and clip_text"
        )
    return names[uses[0] if uses else ""]


def _text(row: Plain, model: Mapping[str, Tensor]) -> WrittenText:
    tensors = _below(model, f"conditioners.{row['name']}.")
    return write_bert(row, tensors) if row["use"] == "text" else write_clip(row, tensors)


def _lost(recipe: Plain, name: str, factor: int) -> list[str]:
    """Notes on the settings without a place in a pipeline's folder."""
    height, width = recipe["image_size"]
    notes = []
    guidance = recipe["guidance"]
    if guidance["use"] == "cfg":
        notes.append(f"guidance is no part of the folder: call the pipeline with guidance_scale={guidance['scale']:g}")
    elif guidance["use"] != "none":
        notes.append(f"guidance '{guidance['use']}' is no part of the folder, and no pipeline has it")
    if recipe["sampler"].get("eta"):
        eta = recipe["sampler"]["eta"]
        notes.append(f"the sampler's noise is no part of the folder: call the pipeline with eta={eta:g}")
    notes += [
        f"sample.{key} is left out: diffusers quantises the last latents alone"
        for key in ("project_x0", "quantize_x0")
        if recipe["sample"].get(key)
    ]
    if name == "LDMTextToImagePipeline" and factor != PIXELS:
        notes.append(
            f"LDMTextToImagePipeline counts {PIXELS} pixels a latent cell, this first stage has {factor}: call it with "
            f"height={height * PIXELS // factor}, width={width * PIXELS // factor}"
        )
    elif name != "LDMPipeline" and height != width:
        notes.append(f"call the pipeline with height={height}, width={width}; by itself it draws squares")
    if name == "StableDiffusionPipeline":
        grid = recipe["time_grid"]
        if grid["use"] == "leading" and grid["offset"] != 1:
            notes.append(f"time_grid.offset is {grid['offset']}; StableDiffusionPipeline makes it 1 where it is loaded")
    return notes


def _component(prefix: str, part: WrittenPart, weights: str = WEIGHTS) -> Written:
    def put(file: BinaryIO) -> None:
        from ldm_core.model.fill import write_tensors

        write_tensors(file, part.tensors, {"format": "pt"})

    def data() -> bytes:
        put(file := io.BytesIO())
        return file.getvalue()

    own = {"_diffusers_version": VERSION} if weights == WEIGHTS else {}
    config = lambda: as_json({**own, **part.config})  # noqa: E731
    name = f"{prefix}{weights}"
    return Written(files={name: data, f"{prefix}config.json": config}, writers={name: put}, notes=part.notes)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
