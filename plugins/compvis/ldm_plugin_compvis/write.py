"""A model in CompVis' layout: impossible parts are refused, losses are named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.config.documents import dump_yaml
from ldm_core.contracts.codec import ModelWeights, Written
from ldm_core.errors import ConfigError
from ldm_core.model.fill import whole, write_tensors
from ldm_core.weights.normalization import factor_of, folded
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.layout import clip as clip_keys
from ldm_plugin_compvis.layout import schedule_tables as schedules
from ldm_plugin_compvis.layout.state_dict import NAME, averaged
from ldm_plugin_compvis.model_config.read import METADATA, OWN
from ldm_plugin_compvis.model_config.write import config_of
from ldm_plugin_compvis.read import FIRST_CONV, mask_second
from ldm_plugin_compvis.recognise.parts import MASKED

SUFFIXES = (".safetensors", ".ckpt")
HELD = (
    *("text", "clip_text", "class_label", "bbox_layout", "semantic_map"),
    *("low_resolution", "masked_image", "embedding"),
)
"""Conditioners with a place in the format; the last three without weights of their own."""
_HEADS = (8, 64)
_GROUPS = 32


def write(weights: ModelWeights, name: str, config: CompVisConfig) -> Written:
    """The file, and the YAML configuration beside it. ConfigError with every line impossible in the format."""
    suffix = PurePosixPath(name).suffix
    problems = [] if suffix in SUFFIXES else [f"{name}: CompVis files end in {' or '.join(SUFFIXES)}"]
    problems += _problems(weights)
    if problems:
        raise ConfigError(problems)
    recipe = dict(weights.recipe)
    by_std = config.scale_by_std or bool(weights.kept.get(NAME, {}).get("scale_by_std"))
    tensors: dict[str, Tensor] = {}
    notes = list(_losses(weights, config))
    scale, stage = 1.0, weights.first_stage
    if stage is not None:
        factor = factor_of(stage["latent_mean"], stage["latent_std"])
        if factor is None and weights.model is not None:
            stage = folded(stage, recipe["first_stage"]["use"] == "vq_ae") or stage
            notes.append("the latents' mean and std went into quant_conv and post_quant_conv; scale factor 1")
        scale = factor or 1.0
        prefix = "" if weights.model is None else "first_stage_model."
        own = {k: v for k, v in stage.items() if k not in ("latent_mean", "latent_std")}
        tensors |= {prefix + key: value for key, value in own.items()}
        if weights.model is None and factor != 1.0:
            notes.append("the latents' mean and std are in the configuration alone: a first stage's file has no place")
    openclip = False
    if weights.model is not None:
        openclip = any(c["use"] == "clip_text" and c["activation"] == "gelu" for c in recipe.get("conditioners", ()))
        if stage is not None:
            held = {"scale_factor": torch.tensor(scale)} if by_std else {}
            tensors = {**_tables(recipe), **held, **_model(weights.model, recipe, stage, openclip, config), **tensors}
        else:
            tensors = _model(weights.model, {**recipe, "conditioners": []}, None, False, config)
    if stage is not None:
        plain = config_of(
            recipe,
            has_model=weights.model is not None,
            scale_factor=scale,
            openclip=openclip,
            class_names=weights.class_names,
            scale_by_std=by_std,
            use_ema=config.write_ema,
        )
        if weights.model is None:
            mean, std = stage["latent_mean"].tolist(), stage["latent_std"].tolist()
            plain[OWN]["normalization"] = {"mean": mean, "std": std}
    else:
        plain = {"model": {"params": {}}, OWN: {"denoiser": recipe["denoiser"]}}
    text = json.dumps(plain, sort_keys=True)
    beside = {f"{PurePosixPath(name).stem}.yaml": lambda: dump_yaml(plain).encode()}
    put = lambda file: _put(tensors, text, suffix, file)  # noqa: E731
    return Written(files={"": lambda: whole(put)}, beside=beside, notes=tuple(notes), writers={"": put})


def _problems(weights: ModelWeights) -> Iterator[str]:  # noqa: C901
    """Parts impossible in the layout, as CompVis' programs read it, a line each."""
    recipe = weights.recipe
    stage, unet = recipe.get("first_stage", {}), recipe.get("denoiser", {})
    if weights.first_stage is None and weights.model is None:
        yield "there are no weights"
    if weights.first_stage is not None:
        if stage["use"] not in ("kl_ae", "vq_ae"):
            yield f"first_stage: the format holds kl_ae and vq_ae, and not '{stage['use']}'"
            return
        yield from _groups("first_stage", stage)
        if stage.get("patch", 1) != 1:
            yield f"first_stage.patch is {stage['patch']}: CompVis' autoencoders have a cell a pixel, 1"
        mean, std = weights.first_stage["latent_mean"], weights.first_stage["latent_std"]
        apart = stage["use"] == "vq_ae" and bool((std != std[0]).any())
        if weights.model is not None and factor_of(mean, std) is None and apart:
            yield (
                "first_stage: its latents have a std for each channel, and the format one scale factor; a codebook's "
                "channels cannot be scaled apart; train it with first_stage_trainer.latent_std=one, or write to ldm"
            )
    if weights.model is None:
        return
    if recipe.get("adapters"):
        yield "adapters: the format has no place for them; fuse or remove them"
    if unet.get("use") != "unet":
        if any(key.startswith("denoiser.") for key in weights.model):
            yield f"denoiser: the format holds unet, and not '{unet.get('use')}'"
        else:
            yield "the format holds no conditioner by itself"
        return
    yield from _groups("denoiser", unet)
    if unet.get("input_skip"):
        yield "denoiser.input_skip is true: CompVis' U-Net has no map from its input to its output"
    if weights.first_stage is None:
        return
    if recipe["schedule"]["use"] != "vp":
        yield f"schedule: the format holds vp, and not '{recipe['schedule']['use']}'"
    if recipe["parameterization"]["use"] not in ("eps", "x0", "v"):
        yield f"parameterization: the format holds eps, x0 and v, and not '{recipe['parameterization']['use']}'"
    conditioners = recipe["conditioners"]
    pair = masked_pair(recipe)
    if len(conditioners) > 1 and not pair:
        yield (
            "conditioners: the format holds one, or clip_text with masked_image behind it, and not "
            + ", ".join(c["name"] for c in conditioners)
        )
    for row in conditioners:
        yield from _conditioner_problems(row, MASKED if pair else {"hole": -1.0, "outside": -1.0})


def _groups(part: str, fields: Mapping[str, Any]) -> Iterator[str]:
    if fields.get("norm_groups", _GROUPS) != _GROUPS:
        yield (
            f"{part}.norm_groups is {fields['norm_groups']}: CompVis' networks have {_GROUPS} groups, whatever the "
            "file says, and would give something else without a word"
        )


def masked_pair(recipe: Mapping[str, Any]) -> bool:
    """True if a recipe's conditioners are Stable Diffusion's for inpainting."""
    return [row["use"] for row in recipe.get("conditioners", ())] == ["clip_text", "masked_image"]


def _conditioner_problems(row: Mapping[str, Any], masked: Mapping[str, float]) -> Iterator[str]:
    use, name = row["use"], row["name"]
    if use not in HELD:
        yield f"conditioners.{name}: the format has no place for '{use}' (it holds {', '.join(HELD)})"
    elif use in ("text", "bbox_layout"):
        yield from _transformer_problems(row, name)
    elif use == "clip_text":
        if row["heads"] * clip_keys.HEAD != row["width"]:
            yield f"conditioners.{name}.heads: CLIP's heads are {clip_keys.HEAD} wide, whatever the file says"
        padding = "!" if row["activation"] == "gelu" else "<|endoftext|>"
        if row["padding"] != padding:
            yield f"conditioners.{name}.padding: CompVis' programs fill captions up with '{padding}'"
        most = int(row["activation"] == "gelu")
        if row["skip"] > most:
            yield (
                f"conditioners.{name}.skip is {row['skip']}: CompVis' programs leave {'1 or none' if most else 'none'} "
                "of this encoder's last layers out"
            )
    elif use == "low_resolution" and row.get("encoded"):
        yield f"conditioners.{name}.encoded: CompVis' programs concatenate the small picture, not its latents"
    elif use == "masked_image":
        if row["scale"] != 1.0:
            yield f"conditioners.{name}.scale: CompVis' programs concatenate the encoding as it is"
        yield from (
            f"conditioners.{name}.{key} is {row[key]}; such models have {value}, whatever the file says"
            for key, value in masked.items()
            if row[key] != value
        )


def _transformer_problems(row: Mapping[str, object], name: str) -> Iterator[str]:
    if (row["heads"], row["head_width"]) != _HEADS:
        yield (
            f"conditioners.{name}: {row['heads']} heads of {row['head_width']}; CompVis' encoder has "
            f"{_HEADS[0]} of {_HEADS[1]}, whatever the file says"
        )
    if row.get("map_channels"):
        yield f"conditioners.{name}.map_channels: CompVis' layouts are tokens alone; the format has no map of boxes"
    if row.get("mask"):
        yield f"conditioners.{name}.mask: CompVis' encoder attends to the padding, whatever the file says"
    if row.get("positions") is False:
        yield f"conditioners.{name}.positions is false; CompVis' encoder adds a vector for each place"
    if row["layers"] == 0:
        yield f"conditioners.{name}.layers is 0; CompVis' encoder has one layer or more"


def _losses(weights: ModelWeights, config: CompVisConfig) -> Iterator[str]:
    """Losses, a line each."""
    recipe = weights.recipe
    if weights.model is None or weights.first_stage is None:
        return
    trained = [row["name"] for row in recipe["conditioners"] if row.get("train", True)]
    if config.write_ema and any(k.startswith("conditioners.") for k in weights.model) and trained:
        yield f"model_ema holds the denoiser alone: conditioner {trained[0]} has no average of its own in this format"
    for row in recipe["conditioners"]:
        if row["use"] in ("text", "clip_text"):
            yield (
                f"the tokenizer of '{row['name']}' is not held; CompVis' programs bring the published one, whose "
                "numbers mean the same words only where this model was trained with it"
            )
        if row["use"] == "clip_text" and row["activation"] == "gelu":
            last = "its last layer, " if row["layers"] == clip_keys.HUGE_LAYERS - 1 else ""
            yield (
                f"of OpenCLIP's encoder {last}text_projection and logit_scale are not held: the condition reads none "
                "of them, but programs must load with strict=False"
            )
        if row["use"] in ("text", "bbox_layout") and not row["logits"]:
            yield f"'{row['name']}' has no to_logits, which nothing reads; programs must load with strict=False"
        if row["use"] == "class_label" and row["null_class"]:
            yield f"that the last row of '{row['name']}' means no class is in the configuration alone"
    yield (
        f"how it is sampled (sampler {recipe['sampler']['use']}, time grid {recipe['time_grid']['use']}, guidance "
        f"{recipe['guidance']['use']}) is not held: name it again, or the pictures are others"
    )
    if recipe["parameterization"]["use"] == "v":
        yield "that it predicts v is in the configuration alone; programs that do not read it take eps"
    if recipe["schedule"].get("zero_terminal"):
        yield "the stretched schedule is in the tables alone; programs that make their own have another"
    if recipe["denoiser"].get("new_attention_order"):
        yield "the order of fused projections is in the configuration alone"


def _tables(recipe: Mapping[str, Any]) -> dict[str, Tensor]:
    fields = {k: v for k, v in recipe["schedule"].items() if k != "use"}
    found = schedules.tables(VPConfig(**fields))
    return {name: torch.tensor(values, dtype=torch.float64).float() for name, values in found.items()}


def _model(
    model: Mapping[str, Tensor],
    recipe: Mapping[str, Any],
    stage: Mapping[str, Tensor] | None,
    openclip: bool,
    config: CompVisConfig,
) -> dict[str, Tensor]:
    unet = {k.removeprefix("denoiser."): v for k, v in model.items() if k.startswith("denoiser.")}
    if masked_pair(recipe) and stage is not None:
        unet[FIRST_CONV] = mask_second(unet[FIRST_CONV], len(stage["latent_mean"]))
    out = {"model.diffusion_model." + name: value for name, value in unet.items()}
    if config.write_ema:
        out |= {averaged("diffusion_model." + name): value for name, value in unet.items()}
        out |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(0, dtype=torch.int32)}
    for row in recipe["conditioners"]:
        prefix = f"conditioners.{row['name']}."
        own = {k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}
        own.pop("_extra_state", None)
        if row["use"] == "clip_text" and openclip:
            own = clip_keys.to_open(own, torch.cat)
        elif row["use"] == "masked_image" and stage is not None and not masked_pair(recipe):
            own = {k: v for k, v in stage.items() if k not in ("latent_mean", "latent_std")}
        out |= {"cond_stage_model." + name: value for name, value in own.items()}
    return out


def _put(tensors: Mapping[str, Tensor], text: str, suffix: str, file: BinaryIO) -> None:
    if suffix == ".safetensors":
        # One key alone: the library writes several in an order of its own, and equal models would be unequal files.
        write_tensors(file, tensors, {METADATA: text})
        return
    own: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        memory = value.untyped_storage()
        # The format writes the whole memory behind a view, and memory in common once: each tensor gets its own.
        if memory.nbytes() != value.numel() * value.element_size() or memory.data_ptr() in places:
            value = value.clone(memory_format=torch.contiguous_format)
        places.add(value.untyped_storage().data_ptr())
        own[name] = value
    torch.save({"state_dict": own, "global_step": 0, METADATA: text}, file)
