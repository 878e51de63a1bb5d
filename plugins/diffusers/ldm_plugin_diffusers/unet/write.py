"""Our U-Net as UNet2DModel or UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.component import WrittenPart
from ldm_plugin_diffusers.unet.keys import CONSTANTS, CROSS, FIELDS, MIDDLE, PLAIN, UNetShape, blocks, unet_weights
from ldm_plugin_diffusers.values import Plain, theirs
from ldm_plugin_diffusers.weights import give_all

if TYPE_CHECKING:
    from torch import Tensor


def write_unet(recipe: Plain, tensors: Mapping[str, Tensor], sample_size: int) -> WrittenPart:
    """The denoiser of a complete recipe; `tensors` by names without ``denoiser.``.

    ConfigError with all settings that neither class can hold.
    """
    part = recipe["denoiser"]
    if part["use"] != "unet":
        raise ConfigError(f"denoiser '{part['use']}' has no counterpart in diffusers' pipelines; they hold: unet")
    shape = _shape(part, tensors)
    name = CROSS if shape.crossattn else PLAIN
    config: dict[str, Any] = {
        "_class_name": name,
        **CONSTANTS,
        **theirs(FIELDS, part),
        "block_out_channels": shape.widths,
        "in_channels": shape.inputs,
        "out_channels": shape.outputs,
        "layers_per_block": shape.res_blocks,
        "mid_block_type": MIDDLE[name],
        "resnet_time_scale_shift": "scale_shift" if shape.scale_shift_norm else "default",
        "sample_size": sample_size,
    }
    problems = _blocks(shape, config)
    if part.get("input_skip"):
        problems.append("denoiser.input_skip is true; diffusers' U-Nets have no map from their input to their output")
    if shape.channel_mult[0] != 1:
        problems.append(
            f"denoiser.channel_mult begins with {shape.channel_mult[0]}; diffusers' U-Nets begin at their base width, 1"
        )
    if shape.crossattn:
        _cross(shape, config)
    else:
        problems += _plain(shape, config)
    if problems:
        raise ConfigError(problems)
    return WrittenPart(class_name=name, config=config, tensors=give_all(unet_weights(shape), tensors, "denoiser"))


def _cross(shape: UNetShape, config: dict[str, Any]) -> None:
    width = shape.head_channels
    config |= {
        "cross_attention_dim": shape.crossattn,
        "transformer_layers_per_block": shape.transformer_depth,
        "use_linear_projection": shape.linear_projection,
        # in this class the key means the number of heads
        "attention_head_dim": [w // width for w in shape.widths] if width else shape.heads,
    }
    if shape.vector:
        config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": shape.vector}


def _plain(shape: UNetShape, config: dict[str, Any]) -> list[str]:
    """Set the attention in `config`; return its problems."""
    problems = []
    last = shape.widths[-1]  # the middle block attends at the last level's width
    used = {w for w, attends in zip(shape.widths, shape.attends, strict=True) if attends} | {last}
    one_head = not shape.head_channels and shape.heads == 1
    if not shape.head_channels and not one_head and len(used) > 1:
        problems.append(
            f"denoiser.heads is {shape.heads} at widths {sorted(used)}; UNet2DModel has one width of a head "
            "for all levels (here: head_channels), or a single head"
        )
    config["attention_head_dim"] = None if one_head else shape.head_channels or last // shape.heads
    if shape.scale_shift_norm:
        config["attn_norm_num_groups"] = config["norm_num_groups"]
    if shape.vector:
        problems.append("the denoiser takes a vector; UNet2DModel has none that is not a class table")
    return problems


def _shape(part: Plain, tensors: Mapping[str, Tensor]) -> UNetShape:
    try:
        inputs, outputs = tensors["input_blocks.0.0.weight"].shape[1], tensors["out.2.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"denoiser: {error} is missing; these weights are not the recipe's") from None
    context = tensors.get("middle_block.1.transformer_blocks.0.attn2.to_k.weight")
    vector = tensors.get("label_emb.0.0.weight")
    return UNetShape.of(
        part,
        inputs=inputs,
        outputs=outputs,
        crossattn=0 if context is None else context.shape[1],
        vector=0 if vector is None else vector.shape[1],
    )


def _blocks(shape: UNetShape, config: dict[str, Any]) -> list[str]:
    """Set the block types in `config`; return their problems."""
    problems = []
    if shape.resblock_updown and not shape.crossattn:
        config |= {"downsample_type": "resnet", "upsample_type": "resnet"}
    elif shape.resblock_updown and (any(shape.attends[:-1]) or (shape.attends[-1] and len(shape.attends) > 1)):
        problems.append(
            "denoiser.resblock_updown is true; UNet2DConditionModel resamples by convolutions where it attends"
        )
    for side, levels in (("Down", shape.attends), ("Up", reversed(shape.attends))):
        bare, resnet, attention = blocks(config["_class_name"], side)
        plain = resnet if shape.resblock_updown else bare
        config[f"{side.lower()}_block_types"] = [attention if attends else plain for attends in levels]
    return problems
