"""The configuration of a file, in the structure read by CompVis' own programs. Imports no torch.

The names of classes in it are texts for those programs; nothing here imports them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_plugin_compvis.layout import clip as clip_keys
from ldm_plugin_compvis.model_config.read import OWN

_PARTS = (
    *("image_size", "image_channels", "first_stage", "conditioners", "denoiser"),
    *("schedule", "parameterization", "objective"),
)
_KEYS = {
    "text": "caption",
    "clip_text": "txt",
    "class_label": "class_label",
    "bbox_layout": "coordinates_bbox",
    "semantic_map": "segmentation",
    "low_resolution": "LR_image",
    "masked_image": "masked_image",
    "embedding": "nix",
}
"""The condition's names in published configurations."""
CONCAT = ("semantic_map", "low_resolution", "masked_image")
WITHOUT_WEIGHTS = ("low_resolution", "masked_image", "embedding")
"""Conditioners without learning; one on the first stage itself must not be called trainable there."""
_DDPM = "ldm.models.diffusion.ddpm."


def config_of(
    recipe: Mapping[str, Any],
    *,
    has_model: bool,
    scale_factor: float,
    openclip: bool,
    class_names: Mapping[str, Sequence[str]],
    scale_by_std: bool = False,
    use_ema: bool = False,
) -> dict[str, Any]:
    """Plain values of the configuration of a model, or of a first stage by itself.

    `scale_by_std`: the scale factor is a tensor of the file. `use_ema`: averages are.
    """
    own = {key: recipe[key] for key in _PARTS if key in recipe and (has_model or key not in _PARTS[3:])}
    stage = recipe["first_stage"]
    ldm = "ldm.models.autoencoder."
    if not has_model:
        name = "VQModel" if stage["use"] == "vq_ae" else "AutoencoderKL"
        model: dict[str, Any] = {"target": ldm + name, "params": _autoencoder(recipe)}
    else:
        pair = len(recipe["conditioners"]) > 1
        model = {"target": _DDPM + ("LatentInpaintDiffusion" if pair else "LatentDiffusion")}
        model["params"] = {
            **_diffusion(recipe, scale_factor),
            **({"scale_by_std": True} if scale_by_std else {}),
            "use_ema": use_ema,
        }
        name = "VQModelInterface" if stage["use"] == "vq_ae" else "AutoencoderKL"
        model["params"] |= {
            "unet_config": {
                "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                "params": _unet(recipe),
            },
            "first_stage_config": {"target": ldm + name, "params": _autoencoder(recipe)},
            "cond_stage_config": _cond_stage(recipe, openclip),
        }
    names = {"class_names": {k: list(v) for k, v in class_names.items()}} if class_names else {}
    return {"model": model, OWN: {**own, **names}}


def _factor(recipe: Mapping[str, Any]) -> int:
    return int(2 ** (len(recipe["first_stage"]["channel_mult"]) - 1))


def _autoencoder(recipe: Mapping[str, Any]) -> dict[str, Any]:
    stage = recipe["first_stage"]
    resolution = max(recipe["image_size"]) if isinstance(recipe["image_size"], list) else recipe["image_size"]
    kl = stage["use"] == "kl_ae"
    ddconfig = {
        "double_z": kl,
        "z_channels": stage["z_channels"],
        "resolution": resolution,
        "in_channels": recipe["image_channels"],
        "out_ch": recipe["image_channels"],
        "ch": stage["channels"],
        "ch_mult": list(stage["channel_mult"]),
        "num_res_blocks": stage["res_blocks"],
        "attn_resolutions": [resolution // factor for factor in stage["attention"]],
        "dropout": stage["dropout"],
        **({} if stage["mid_attention"] else {"attn_type": "none"}),
    }
    book = {} if kl else {"n_embed": stage["codebook_size"]}
    loss = {"target": "torch.nn.Identity"}
    return {"embed_dim": stage["z_channels"], **book, "ddconfig": ddconfig, "lossconfig": loss}


def _diffusion(recipe: Mapping[str, Any], scale_factor: float) -> dict[str, Any]:
    schedule, conditioners = recipe["schedule"], recipe["conditioners"]
    size = [length // _factor(recipe) for length in recipe["image_size"]]
    out: dict[str, Any] = {
        "beta_schedule": schedule["kind"],
        "linear_start": schedule["beta_start"],
        "linear_end": schedule["beta_end"],
        "timesteps": schedule["steps"],
        "parameterization": recipe["parameterization"]["use"],
        "loss_type": recipe["objective"].get("loss", "l2"),
        "first_stage_key": "image",
        "image_size": size[0] if size[0] == size[1] else size,
        "channels": recipe["first_stage"]["z_channels"],
        "scale_factor": scale_factor,
    }
    if conditioners:
        use = conditioners[0]["use"]
        out |= {
            "cond_stage_key": _KEYS.get(use, use),
            "conditioning_key": "hybrid" if len(conditioners) > 1 else "concat" if use in CONCAT else "crossattn",
            "cond_stage_trainable": use not in WITHOUT_WEIGHTS and bool(conditioners[0].get("train", True)),
        }
    if len(conditioners) > 1:  # Stable Diffusion's for inpainting: its programs ask the model for these
        keys = ["mask", "masked_image"]
        out |= {"finetune_keys": None, "concat_keys": keys, "masked_image_key": keys[1]}
    return out


def _unet(recipe: Mapping[str, Any]) -> dict[str, Any]:
    unet, z = recipe["denoiser"], recipe["first_stage"]["z_channels"]
    first = recipe["conditioners"][0] if recipe["conditioners"] else {}
    beside = {
        "semantic_map": first.get("channels", 0),
        "low_resolution": first.get("image_channels", 0),
        "masked_image": z + 1,
        "clip_text": z + 1 if len(recipe["conditioners"]) > 1 else 0,
    }
    size = recipe["image_size"]
    out: dict[str, Any] = {
        "image_size": size[0] // _factor(recipe),
        "in_channels": z + beside.get(first.get("use", ""), 0),
        "out_channels": z,
        "model_channels": unet["channels"],
        "attention_resolutions": list(unet["attention"]),
        "num_res_blocks": unet["res_blocks"],
        "channel_mult": list(unet["channel_mult"]),
        "dropout": unet["dropout"],
        **({"num_head_channels": unet["head_channels"]} if unet["head_channels"] else {"num_heads": unet["heads"]}),
        "use_scale_shift_norm": unet["scale_shift_norm"],
        "resblock_updown": unet["resblock_updown"],
        "use_new_attention_order": unet["new_attention_order"],
        "use_checkpoint": unet["checkpoint"],
    }
    if first and first["use"] not in CONCAT:
        out |= {
            "use_spatial_transformer": True,
            "transformer_depth": unet["transformer_depth"],
            "context_dim": first["width"],
            "legacy": False,
            **({"use_linear_in_transformer": True} if unet["linear_projection"] else {}),
        }
    return out


def _cond_stage(recipe: Mapping[str, Any], openclip: bool) -> Any:
    if not recipe["conditioners"]:
        return "__is_unconditional__"
    first = recipe["conditioners"][0]
    modules = "ldm.modules.encoders.modules."
    use = first["use"]
    if use == "class_label":
        rows = first["classes"] + bool(first["null_class"])
        return {
            "target": modules + "ClassEmbedder",
            "params": {"n_classes": rows, "embed_dim": first["width"], "key": first["key"]},
        }
    if use == "text":
        params = {"n_embed": first["width"], "n_layer": first["layers"], "vocab_size": first["vocab_size"]}
        return {"target": modules + "BERTEmbedder", "params": {**params, "max_seq_len": first["length"]}}
    if use == "bbox_layout":
        params = {"n_embed": first["width"], "n_layer": first["layers"], "vocab_size": first["vocab_size"]}
        length = 3 * first["objects"] + 2 * first["encode_crop"]
        return {"target": modules + "BERTEmbedder", "params": {**params, "max_seq_len": length, "use_tokenizer": False}}
    if use == "semantic_map":
        stages = _factor(recipe).bit_length() - 1
        params = {"n_stages": stages, "in_channels": first["classes"], "out_channels": first["channels"]}
        return {"target": modules + "SpatialRescaler", "params": params}
    if use == "masked_image":
        return "__is_first_stage__"
    if use == "clip_text":
        named = clip_keys.layer_name(first["layers"], first["skip"])
        layer = {"params": {"freeze": True, "layer": named}} if openclip else {}
        return {"target": modules + ("FrozenOpenCLIPEmbedder" if openclip else "FrozenCLIPEmbedder"), **layer}
    return {"target": "torch.nn.Identity"}
