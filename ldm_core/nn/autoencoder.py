"""Convolutional encoder and decoder of the first stages, with the key names of the published autoencoders.

`attention` lists downsampling factors: with `channel_mult` of n levels, level i works at factor 2**i, and gets
attention after each of its blocks when 2**i is listed. The published configs name resolutions at 256 px instead
(16 there is factor 16 here), which would change the architecture with the image size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.nn.attention import SpatialSelfAttention
from ldm_core.nn.norms import group_norm


class ResnetBlock(nn.Module):
    """Residual block of (B,C,h,w): twice norm, SiLU, 3×3 convolution; a 1×1 shortcut where the width changes."""

    def __init__(
        self, channels: int, *, out_channels: int | None = None, dropout: float = 0.0, norm_groups: int = 32
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        self.norm1 = group_norm(channels, norm_groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if out_channels != channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)
        self.widens = out_channels != channels

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return (self.nin_shortcut(x) if self.widens else x) + h


class PaddedDownsample(nn.Module):
    """Halve height and width with a strided 3×3 convolution, padded on the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class NearestUpsample(nn.Module):
    """Double height and width by nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """One resolution: blocks, the attention after each (or none), and a resampling layer (or none)."""

    def __init__(
        self, channels: Sequence[int], *, attention: bool, dropout: float, norm_groups: int, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(before, out_channels=after, dropout=dropout, norm_groups=norm_groups)
            for before, after in zip(channels[:-1], channels[1:], strict=True)
        )
        self.attn = nn.ModuleList(
            SpatialSelfAttention(width, norm_groups=norm_groups) for width in (channels[1:] if attention else ())
        )
        if isinstance(resample, PaddedDownsample):
            self.downsample = resample
        elif resample is not None:
            self.upsample = resample
        self.resample = None if resample is None else resample.forward
