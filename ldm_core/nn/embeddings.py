"""The sinusoidal embedding of the noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def timestep_embedding(noise_level: Tensor, dim: int, *, max_period: float = 10000.0) -> Tensor:
    """Embed noise levels (B,) as (B, dim) float32: cosines first, then sines, a zero column if `dim` is odd.

    Frequency i of dim // 2 is `max_period ** (-i / (dim // 2))`; levels may be fractional or negative.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=noise_level.device)
    angles = noise_level.float()[:, None] * torch.exp(index * (-math.log(max_period) / half))
    columns = [angles.cos(), angles.sin()]
    if dim % 2:
        columns.append(torch.zeros_like(angles[:, :1]))
    return torch.cat(columns, dim=1)
