"""First stages of ours as AutoencoderKL and VQModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ldm_core.errors import ConfigError
from ldm_plugin_diffusers.autoencoder.keys import CLASSES, DOWN, FIELDS, UP, AutoencoderShape, autoencoder_weights
from ldm_plugin_diffusers.component import WrittenPart
from ldm_plugin_diffusers.values import Plain, theirs
from ldm_plugin_diffusers.weights import give_all

if TYPE_CHECKING:
    from torch import Tensor


def write_autoencoder(recipe: Plain, tensors: Mapping[str, Tensor], *, shift: bool = False) -> WrittenPart:
    """The first stage of a complete recipe; with `shift`, its reader knows a shift_factor.

    ConfigError for another first stage, and for a normalisation of the latents without a place in the format.
    """
    part = recipe["first_stage"]
    ours = {v: k for k, v in CLASSES.items()}
    if part["use"] not in ours:
        raise ConfigError(
            f"first_stage '{part['use']}' has no counterpart in diffusers; it can hold: {', '.join(sorted(ours))}"
        )
    mult = [int(m) for m in part["channel_mult"]]
    if mult[0] != 1:
        raise ConfigError(
            f"first_stage.channel_mult begins with {mult[0]}; diffusers' autoencoders begin at their base width, 1"
        )
    if part.get("patch", 1) != 1:
        raise ConfigError(f"first_stage.patch is {part['patch']}; diffusers' autoencoders have a cell a pixel, 1")
    vq = part["use"] == "vq_ae"
    shape = AutoencoderShape.of(part, int(recipe["image_channels"]))
    attends = [shape.attends(level) for level in range(len(mult))]
    tensors = {k: v.detach().cpu() for k, v in tensors.items()}
    scale, offset, folded, notes = _folded(tensors, vq, shift)
    config: dict[str, Any] = {
        "_class_name": ours[part["use"]],
        "act_fn": "silu",
        "block_out_channels": [shape.channels * m for m in mult],
        "down_block_types": [_named(DOWN, a) for a in attends],
        "up_block_types": [_named(UP, a) for a in reversed(attends)],
        "in_channels": shape.image_channels,
        "out_channels": shape.image_channels,
        "sample_size": max(recipe["image_size"]),
        "scaling_factor": scale,
        **theirs(FIELDS[part["use"]], part),
    }
    if vq:
        config["vq_embed_dim"] = shape.z_channels
    elif offset:
        config["shift_factor"] = offset
    return WrittenPart(
        class_name=config["_class_name"],
        config=config,
        tensors=give_all(autoencoder_weights(shape), folded, "first_stage", elsewhere=("latent_mean", "latent_std")),
        notes=notes,
    )


def _named(blocks: Mapping[str, bool], attention: bool) -> str:
    return next(name for name, has in blocks.items() if has == attention)


def _folded(
    tensors: Mapping[str, Tensor], vq: bool, shift: bool
) -> tuple[float, float, Mapping[str, Tensor], list[str]]:
    """(scaling_factor, shift_factor, tensors, notes).

    A mean or a std of each channel goes into the 1x1 convolutions around the latents, exactly but for rounding.
    """
    from ldm_core.weights.normalization import folded, shortest_inverse

    mean, std = tensors["latent_mean"].double(), tensors["latent_std"].double()
    plain = bool((std == std[0]).all()) and bool((mean == mean[0]).all())
    if plain and (float(mean[0]) == 0 or (shift and not vq)):
        return shortest_inverse(float(std[0])), float(mean[0]), tensors, []
    out = folded(tensors, vq)
    if out is None:
        raise ConfigError(
            "first_stage: each channel of the latents has a std of its own "
            f"({', '.join(f'{s:.4g}' for s in std.tolist()[:4])}); VQModel has one scaling_factor, and stretching the "
            "codes would change which is nearest. A kl_ae can be written, or a vq_ae that was trained with "
            "first_stage_trainer.latent_std=one"
        )
    notes = [
        "the latents' mean and std by channel are part of quant_conv and post_quant_conv now"
        + (" and of the codebook" if vq else "")
        + "; scaling_factor is 1"
    ]
    return 1.0, 0.0, out, notes
