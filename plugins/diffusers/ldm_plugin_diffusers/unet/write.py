"""Our U-Net as UNet2DModel or UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.autoencoder.read import WrittenPart
from ldm_plugin_diffusers.unet.keys import UNetShape, unet_weights
from ldm_plugin_diffusers.weights import give_all

if TYPE_CHECKING:
    from torch import Tensor


def write_unet(recipe: Mapping[str, Any], tensors: Mapping[str, Tensor], sample_size: int) -> WrittenPart:
    """The denoiser of a complete recipe; `tensors` by names without ``denoiser.``. ConfigError with every line at once
    where their U-Nets cannot hold it."""
    part = recipe["denoiser"]
    if part["use"] != "unet":
        raise ConfigError(f"denoiser '{part['use']}' has no counterpart in diffusers' pipelines; they hold: unet")
    shape = _shape(part, tensors)
    widths = [shape.channels * m for m in shape.channel_mult]
    last = len(widths) - 1
    used = [w for level, w in enumerate(widths) if 2**level in shape.attention or level == last]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel" if shape.crossattn else "UNet2DModel",
        "act_fn": "silu",
        "block_out_channels": widths,
        "center_input_sample": False,
        "dropout": float(part["dropout"]),
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": shape.inputs,
        "out_channels": shape.outputs,
        "layers_per_block": shape.res_blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": part["norm_groups"],
        "resnet_time_scale_shift": "scale_shift" if shape.scale_shift_norm else "default",
        "sample_size": sample_size,
    }
    problems = _blocks(shape, config)
    if shape.channel_mult[0] != 1:
        problems.append(
            f"denoiser.channel_mult begins with {shape.channel_mult[0]}; diffusers' U-Nets begin at their base width, 1"
        )
    width = int(part["head_channels"])
    if shape.crossattn:
        config |= {
            "cross_attention_dim": shape.crossattn,
            "transformer_layers_per_block": shape.transformer_depth,
            "use_linear_projection": shape.linear_projection,
            # in this class the word stands for the number of heads
            "attention_head_dim": [w // width for w in widths] if width else int(part["heads"]),
        }
        if shape.vector:
            config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": shape.vector}
    else:
        if not width and part["heads"] != 1 and len(set(used)) > 1:
            problems.append(
                f"denoiser.heads is {part['heads']} at widths {sorted(set(used))}; UNet2DModel has one width of a head "
                "for all levels (here: head_channels), or a single head"
            )
        one_head = not width and part["heads"] == 1
        config["attention_head_dim"] = None if one_head else width or used[-1] // int(part["heads"])
        if shape.scale_shift_norm:
            config["attn_norm_num_groups"] = part["norm_groups"]
        if shape.vector:
            problems.append("the denoiser takes a vector; UNet2DModel has none that is not a class table")
    if problems:
        raise ConfigError(problems)
    out = give_all(unet_weights(shape), tensors, "denoiser")
    return WrittenPart(class_name=config["_class_name"], config=config, tensors=out)


def _shape(part: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> UNetShape:
    try:
        inputs, outputs = tensors["input_blocks.0.0.weight"].shape[1], tensors["out.2.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"denoiser: {error} is missing; these weights are not the recipe's") from None
    context = tensors.get("middle_block.1.transformer_blocks.0.attn2.to_k.weight")
    vector = tensors.get("label_emb.0.0.weight")
    mult, head = [int(m) for m in part["channel_mult"]], int(part["head_channels"])
    return UNetShape(
        inputs=inputs,
        outputs=outputs,
        channels=int(part["channels"]),
        channel_mult=mult,
        res_blocks=int(part["res_blocks"]),
        attention=tuple(part["attention"]),
        heads=[int(part["channels"]) * m // head if head else int(part["heads"]) for m in mult],
        crossattn=0 if context is None else context.shape[1],
        vector=0 if vector is None else vector.shape[1],
        transformer_depth=int(part["transformer_depth"]),
        linear_projection=bool(part["linear_projection"]),
        scale_shift_norm=bool(part["scale_shift_norm"]),
        resblock_updown=bool(part["resblock_updown"]),
        by_role=bool(part["new_attention_order"]),
    )


def _blocks(shape: UNetShape, config: dict[str, Any]) -> list[str]:
    """Set the block types in `config`; what they cannot say."""
    last = len(shape.channel_mult) - 1
    attends = [2**level in shape.attention for level in range(last + 1)]
    plain_down, plain_up = "DownBlock2D", "UpBlock2D"
    problems = []
    if shape.resblock_updown:
        plain_down, plain_up = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
        if not shape.crossattn:
            config |= {"downsample_type": "resnet", "upsample_type": "resnet"}
        elif any(attends[:-1]) or (attends[-1] and last):
            problems.append(
                "denoiser.resblock_updown is true; UNet2DConditionModel resamples by convolutions where it attends"
            )
    name = "CrossAttn" if shape.crossattn else "Attn"
    config["down_block_types"] = [f"{name}DownBlock2D" if a else plain_down for a in attends]
    config["up_block_types"] = [f"{name}UpBlock2D" if a else plain_up for a in reversed(attends)]
    config["mid_block_type"] = "UNetMidBlock2DCrossAttn" if shape.crossattn else "UNetMidBlock2D"
    return problems
