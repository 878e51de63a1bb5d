"""The latents' normalisation as other formats hold it: one scale factor, where it can be one, and folded into the first
stage where not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def shortest_inverse(value: float) -> float:
    """1 / `value` in the fewest digits whose inverse is `value` again in float32; `value` is above 0."""
    for digits in range(1, 18):
        factor = float(f"{1 / value:.{digits}g}")
        if torch.full((1,), 1 / factor).item() == value:
            return factor
    return 1 / value


def factor_of(mean: Tensor, std: Tensor) -> float | None:
    """The scale factor s of channels with one std and mean 0: its inverse is the std, the shortest number that gives it
    back to the bit; else None."""
    value = std[0].item()
    if bool((mean != 0).any()) or bool((std != std[0]).any()) or not 0 < value < math.inf:
        return None
    return shortest_inverse(value)


def folded(stage: Mapping[str, Tensor], codebook: bool) -> dict[str, Tensor] | None:
    """The first stage with its normalisation inside its last and first 1×1 convolutions, so that factor 1 is left.

    It does what it did, but for rounding. None where it would not: with a `codebook`, codes are nearest in raw latents,
    whose channels may not be scaled apart.
    """
    mean, std = stage["latent_mean"].double(), stage["latent_std"].double()
    if codebook and bool((std != std[0]).any()):
        return None
    out = dict(stage)
    weight, bias = stage["quant_conv.weight"].double(), stage["quant_conv.bias"].double()
    z = len(mean)
    scaled, moved = weight.clone(), bias.clone()
    scaled[:z] = weight[:z] / std[:, None, None, None]
    moved[:z] = (bias[:z] - mean) / std
    if not codebook:  # behind the means come the log variances
        moved[z:] = bias[z:] - 2 * std.log()
    after, behind = stage["post_quant_conv.weight"].double(), stage["post_quant_conv.bias"].double()
    new = {
        "quant_conv.weight": scaled,
        "quant_conv.bias": moved,
        "post_quant_conv.weight": after * std[None, :, None, None],
        "post_quant_conv.bias": behind + (after[:, :, 0, 0] @ mean),
    }
    if codebook:
        new["quantize.embedding.weight"] = (stage["quantize.embedding.weight"].double() - mean) / std
    out |= {name: value.to(stage[name].dtype) for name, value in new.items()}
    out["latent_mean"], out["latent_std"] = torch.zeros_like(stage["latent_mean"]), torch.ones_like(stage["latent_std"])
    return out
