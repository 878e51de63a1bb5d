"""A model of ours as a folder of diffusers: whole pipelines, or a lone first stage or denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ldm_core.contracts.codec import ModelWeights, Written
from ldm_core.errors import ConfigError
from ldm_plugin_diffusers.autoencoder.read import WrittenPart, write_autoencoder
from ldm_plugin_diffusers.pipeline.read import INDEX, LAYOUTS
from ldm_plugin_diffusers.scheduler.read import write_scheduler
from ldm_plugin_diffusers.text import bert as texts
from ldm_plugin_diffusers.text import clip
from ldm_plugin_diffusers.text.bert import WrittenText, as_json
from ldm_plugin_diffusers.unet.write import write_unet

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "0.30.0"
"""The version of diffusers whose folders these are; later ones read them, too."""
WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
_PIPELINES = {"": "LDMPipeline", "text": "LDMTextToImagePipeline", "clip_text": "StableDiffusionPipeline"}
PIXELS = 8
"""Pixels of a latent cell that LDMTextToImagePipeline counts with, whatever its first stage."""

_Files = dict[str, Callable[[], bytes]]


def write(weights: ModelWeights, name: str) -> Written:
    """The files of a folder for `weights`, whose recipe is complete. ConfigError, all lines at once, where diffusers
    has no pipeline for it."""
    last = name.rsplit("/", 1)[-1]
    if last.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".bin")):
        raise ConfigError(f"{last}: diffusers' format is a folder; give a name without a suffix")
    recipe = weights.recipe
    if weights.model is None:
        if weights.first_stage is None:
            raise ConfigError("there is nothing to write: neither a model nor a first stage")
        part = write_autoencoder(recipe, weights.first_stage, shift=True)
        return Written(files=_component("", part), notes=part.notes)
    denoiser = _below(weights.model, "denoiser.")
    if weights.first_stage is None:
        size = math.ceil(max(recipe["image_size"]) / max(weights.latent.stride if weights.latent else (PIXELS,)))
        part = write_unet(recipe, denoiser, size)
        return Written(files=_component("", part), notes=part.notes)
    return _pipeline(weights, denoiser)


def _pipeline(weights: ModelWeights, denoiser: Mapping[str, Tensor]) -> Written:
    recipe, model = weights.recipe, weights.model
    assert model is not None and weights.first_stage is not None
    rows: Sequence[Mapping[str, Any]] = recipe["conditioners"]
    problems: list[str] = []
    uses = [row["use"] for row in rows]
    if len(uses) > 1 or any(use not in _PIPELINES for use in uses):
        problems.append(
            f"conditioners {', '.join(uses)}: diffusers' latent pipelines hold none, or one of text and clip_text"
        )
        raise ConfigError(problems)
    if recipe["adapters"]:
        problems.append(f"adapters {', '.join(a['use'] for a in recipe['adapters'])}: they are no part of a pipeline")
    name = _PIPELINES[uses[0] if uses else ""]
    layout = LAYOUTS[name]

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    factor = 2 ** (len(recipe["first_stage"].get("channel_mult", [1])) - 1)
    height, width = recipe["image_size"]
    if not uses and height != width:
        problems.append(f"image_size [{height}, {width}]: LDMPipeline draws square images alone")
    stage: WrittenPart | None = attempt(lambda: write_autoencoder(recipe, weights.first_stage or {}))
    unet: WrittenPart | None = attempt(lambda: write_unet(recipe, denoiser, max(height, width) // factor))
    text: WrittenText | None = None
    if uses:
        tensors = _below(model, f"conditioners.{rows[0]['name']}.")
        by_use = {"text": texts.write_bert, "clip_text": clip.write_clip}
        text = attempt(lambda: by_use[uses[0]](rows[0], tensors))
    scheduler = attempt(lambda: write_scheduler(recipe))
    if problems or stage is None or unet is None or scheduler is None:
        raise ConfigError(problems)
    index: dict[str, Any] = {
        "_class_name": name,
        "_diffusers_version": VERSION,
        layout.stage: ["diffusers", stage.class_name],
        "unet": ["diffusers", unet.class_name],
        "scheduler": ["diffusers", scheduler[0]["_class_name"]],
    }
    files = {**_component(f"{layout.stage}/", stage), **_component("unet/", unet)}
    config = {"_diffusers_version": VERSION, **scheduler[0]}
    files["scheduler/scheduler_config.json"] = lambda: as_json(config)
    notes = [*stage.notes, *unet.notes, *scheduler[1]]
    if text is not None:
        notes += text.notes
        files |= _component(f"{layout.text}/", text.part, weights=TEXT_WEIGHTS)
        files |= {f"{layout.tokenizer}/{file}": make for file, make in text.tokenizer.items()}
        library = "transformers" if uses[0] == "clip_text" else "latent_diffusion"
        index[layout.text] = [library, text.part.class_name]
        tokenizer = "CLIPTokenizer" if uses[0] == "clip_text" else "BertTokenizer"
        index[layout.tokenizer] = ["transformers", tokenizer] if text.tokenizer else [None, None]
    index |= {part: [None, None] for part in layout.extra}
    if layout.extra:
        index["requires_safety_checker"] = False
    notes += _left_out(recipe, name, factor)
    files[INDEX] = lambda: as_json(index)
    return Written(files=files, notes=notes)


def _left_out(recipe: Mapping[str, Any], name: str, factor: int) -> list[str]:
    """What of a recipe a pipeline's folder has no place for."""
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


def _component(prefix: str, part: WrittenPart, weights: str = WEIGHTS) -> _Files:
    from safetensors.torch import save

    own = {"_diffusers_version": VERSION} if weights == WEIGHTS else {}
    return {
        f"{prefix}{weights}": lambda: save(dict(part.tensors), metadata={"format": "pt"}),
        f"{prefix}config.json": lambda: as_json({**own, **part.config}),
    }


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
