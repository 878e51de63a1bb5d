"""The U-Net's residual block and resampling layers."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.nn.norms import group_norm, zero_init

Resample = Literal["none", "down", "up"]


class Downsample(nn.Module):
    """Halve height and width with a strided 3×3 convolution, padded by one on every side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width by nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResBlock(nn.Module):
    """Residual block of (B,C,h,w) with an embedding (B,E) of noise level (and vector conditioning).

    The embedding is added before the second normalisation, or with `scale_shift_norm` scales and shifts its
    output. `resample` "down" averages 2×2, "up" doubles by nearest neighbour, both on the residual branch
    (between SiLU and the first convolution) and on the skip. The last convolution starts at zero.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        *,
        out_channels: int | None = None,
        dropout: float = 0.0,
        norm_groups: int = 32,
        scale_shift_norm: bool = False,
        resample: Resample = "none",
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        self.scale_shift_norm = scale_shift_norm
        self.resample = resample
        self.in_layers = nn.Sequential(
            group_norm(channels, norm_groups, eps=1e-5),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels if scale_shift_norm else out_channels)
        )
        self.out_layers = nn.Sequential(
            group_norm(out_channels, norm_groups, eps=1e-5),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self._resampled(activation(norm(x))))
        x = self._resampled(x)
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift_norm:
            norm, activation, dropout, conv = self.out_layers
            scale, shift = e.chunk(2, dim=1)
            h = conv(dropout(activation(norm(h) * (1 + scale) + shift)))
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x
