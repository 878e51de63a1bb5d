"""Likelihoods of data under a normal distribution: of levels of 256, and densities."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_HALF = 1 / 255
"""Half of the distance of two levels in [-1, 1]."""


def scale_of_pixels(stage: Any, x: Tensor, z: Tensor) -> Tensor | None:
    """The factor (1, c, H, W) between latents and pixels, for latents equal to pixels up to a factor and a shift by
    place; None of others. `x` (B, c, H, W) in [-1, 1], `z` their latents."""
    if x.shape != z.shape:
        return None
    shift, one = stage.decode(torch.zeros_like(z[:1])), stage.decode(torch.ones_like(z[:1]))
    scale: Tensor = one - shift
    straight = shift + scale * z
    return scale if torch.allclose(straight, x, rtol=0, atol=1e-4) else None


def densities(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The logarithm of the normal density at each value of x; nats."""
    return -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def binned(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The logarithm of the probability of each value's level, one of 256 in [-1, 1], under a normal distribution of
    pixels; nats. The first and the last level reach to infinity (Ho et al. 2020, arXiv 2006.11239, equation 13)."""
    low, high = (x - _HALF - mean) / std, (x + _HALF - mean) / std
    # On the side below the mean, where the logarithm of the distribution keeps its digits.
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    above, below = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    between = above + torch.log1p(-torch.exp(below - above))
    first, last = x < -1 + _HALF, x > 1 - _HALF
    ends = torch.where(first, (x + _HALF - mean) / std, (mean - x + _HALF) / std)
    return torch.where(first | last, torch.special.log_ndtr(ends), between)
