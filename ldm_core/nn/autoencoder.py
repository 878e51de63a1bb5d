"""Convolutional encoder and decoder of the first stages, with the key names of the published autoencoders.

`attention` of the config lists downsampling factors: level i works at factor 2**i and has attention after each of its
blocks if 2**i is listed. The published configs list resolutions at 256 px instead (16 there is factor 16 here); they
would change the architecture with the image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.nn.attention import SpatialSelfAttention
from ldm_core.nn.autoencoder_config import AutoencoderConfig
from ldm_core.nn.norms import group_norm
from ldm_core.nn.tiles.pieces import Made, Map, Pieces, activated


class ResnetBlock(nn.Module):
    """Residual block of (B,C,h,w): twice norm, SiLU, 3×3 convolution; a 1×1 shortcut where widths differ."""

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

    def over(self, x: Map, pieces: Pieces) -> Map:
        """:meth:`forward` of a map in pieces."""
        first, channels = pieces.normed(self.norm1, x), self.conv1.out_channels

        def head(x: Tensor) -> Tensor:
            return self.conv1(activated(first(x)))

        made = Made([x], head, channels, halo=1)
        kept = pieces.beside(made, x)
        second = pieces.normed(self.norm2, kept or made)

        def tail(x: Tensor, h: Tensor) -> Tensor:
            return (self.nin_shortcut(x) if self.widens else x) + self.conv2(activated(second(h)))

        if kept is not None:
            return pieces.settled(Made([x, kept], tail, channels, halo=1))
        return pieces.settled(Made([x], lambda x: tail(x, head(x)), channels, halo=2))


class PaddedDownsample(nn.Module):
    """Halve height and width with a strided 3×3 convolution, padded on the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))

    def over(self, x: Map, pieces: Pieces) -> Map:
        """:meth:`forward` of a map in pieces."""
        return pieces.convolved(self, x, self.conv.out_channels, "down")


class NearestUpsample(nn.Module):
    """Double height and width by nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def over(self, x: Map, pieces: Pieces) -> Map:
        """:meth:`forward` of a map in pieces."""
        return pieces.convolved(self, x, self.conv.out_channels, "up")


class _Level(nn.Module):
    """One resolution: a run of blocks through the given widths, with attention after each (or none)."""

    def __init__(self, widths: Sequence[int], *, attention: bool, dropout: float, norm_groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(before, out_channels=after, dropout=dropout, norm_groups=norm_groups)
            for before, after in pairwise(widths)
        )
        self.attn = nn.ModuleList(
            SpatialSelfAttention(width, norm_groups=norm_groups) for width in (widths[1:] if attention else ())
        )

    def run_blocks(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return x

    def blocks_over(self, x: Map, pieces: Pieces) -> Map:
        """:meth:`run_blocks` of a map in pieces."""
        for index, block in enumerate(self.block):
            x = block.over(x, pieces)  # type: ignore[operator]
            if self.attn:
                x = self.attn[index].over(x, pieces)  # type: ignore[operator]
        return x


class _DownLevel(_Level):
    """A level of the encoder; halves the size at its end unless it is the last."""

    def __init__(self, widths: Sequence[int], *, last: bool, **more: Any) -> None:
        super().__init__(widths, **more)
        if not last:
            self.downsample = PaddedDownsample(widths[-1])
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.run_blocks(x)
        return x if self.last else self.downsample(x)

    def over(self, x: Map, pieces: Pieces) -> Map:
        """:meth:`forward` of a map in pieces."""
        x = self.blocks_over(x, pieces)
        return x if self.last else self.downsample.over(x, pieces)


class _UpLevel(_Level):
    """A level of the decoder; doubles the size at its end unless it is the last to run."""

    def __init__(self, widths: Sequence[int], *, last: bool, **more: Any) -> None:
        super().__init__(widths, **more)
        if not last:
            self.upsample = NearestUpsample(widths[-1])
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.run_blocks(x)
        return x if self.last else self.upsample(x)

    def over(self, x: Map, pieces: Pieces) -> Map:
        """:meth:`forward` of a map in pieces."""
        x = self.blocks_over(x, pieces)
        return x if self.last else self.upsample.over(x, pieces)


class _Middle(nn.Module):
    """Block, attention (or none), block, at the lowest resolution."""

    def __init__(self, channels: int, *, attention: bool, dropout: float, norm_groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, dropout=dropout, norm_groups=norm_groups)
        self.attn_1 = SpatialSelfAttention(channels, norm_groups=norm_groups) if attention else nn.Identity()
        self.block_2 = ResnetBlock(channels, dropout=dropout, norm_groups=norm_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))

    def over(self, x: Map, pieces: Pieces) -> Map:
        """:meth:`forward` of a map in pieces."""
        x = self.block_1.over(x, pieces)
        if isinstance(self.attn_1, SpatialSelfAttention):
            x = self.attn_1.over(x, pieces)
        return self.block_2.over(x, pieces)


class Encoder(nn.Module):
    """Images (B,image_channels,H,W) to features (B,out_channels,h,w), h = H / (patch · 2**(levels - 1)).

    `out_channels` is 2·z for a Gaussian posterior (mean and log variance), z for a codebook. With `patch` p above 1 a
    square of p x p pixels is one cell of p² · image_channels numbers before the first convolution: the levels of full
    size, the dearest ones, are left out.
    """

    def __init__(self, config: AutoencoderConfig, *, out_channels: int, image_channels: int = 3) -> None:
        super().__init__()
        c = config
        norms: dict[str, Any] = {"dropout": c.dropout, "norm_groups": c.norm_groups}
        self.patch = c.patch
        self.conv_in = nn.Conv2d(image_channels * c.patch**2, c.channels, 3, padding=1)
        width = c.channels
        self.down = nn.ModuleList()
        for level, mult in enumerate(c.channel_mult):
            widths = [width, *[c.channels * mult] * c.res_blocks]
            last = level == len(c.channel_mult) - 1
            self.down.append(_DownLevel(widths, attention=c.patch * 2**level in c.attention, last=last, **norms))
            width = widths[-1]
        self.mid = _Middle(width, attention=c.mid_attention, **norms)
        self.norm_out = group_norm(width, c.norm_groups)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def recompute_blocks(self) -> list[nn.Module]:
        """The blocks that a trainer may let run again in the backward pass."""
        return [*(block for level in self.down for block in level.block), self.mid]  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        return self.conv_out(F.silu(self.norm_out(h)))

    @torch.no_grad()
    def in_pieces(self, x: Tensor, memory: int) -> Tensor:
        """:meth:`forward` to rounding, in eval mode and without gradients, within about `memory` bytes beside the
        images and the features."""
        pieces = Pieces(memory)
        cells = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        h = pieces.convolved(self.conv_in, pieces.whole(cells), self.conv_in.out_channels)
        for level in self.down:
            h = level.over(h, pieces)  # type: ignore[operator]
        return _put_out(self.mid.over(h, pieces), self.norm_out, self.conv_out, pieces)


class Decoder(nn.Module):
    """Features (B,z_channels,h,w) to images (B,image_channels,H,W), H = h · patch · 2**(levels - 1); not clamped.

    `up[0]` is the highest resolution, as in the published keys; it runs last. With `patch` p above 1 the last
    convolution gives p² pixels a cell.
    """

    def __init__(self, config: AutoencoderConfig, *, image_channels: int = 3) -> None:
        super().__init__()
        c = config
        norms: dict[str, Any] = {"dropout": c.dropout, "norm_groups": c.norm_groups}
        self.patch = c.patch
        width = c.channels * c.channel_mult[-1]
        self.conv_in = nn.Conv2d(c.z_channels, width, 3, padding=1)
        self.mid = _Middle(width, attention=c.mid_attention, **norms)
        levels: list[nn.Module] = []
        for level, mult in reversed(list(enumerate(c.channel_mult))):
            widths = [width, *[c.channels * mult] * (c.res_blocks + 1)]
            levels.insert(0, _UpLevel(widths, attention=c.patch * 2**level in c.attention, last=level == 0, **norms))
            width = widths[-1]
        self.up = nn.ModuleList(levels)
        self.norm_out = group_norm(width, c.norm_groups)
        self.conv_out = nn.Conv2d(width, image_channels * c.patch**2, 3, padding=1)

    def recompute_blocks(self) -> list[nn.Module]:
        """The blocks that a trainer may let run again in the backward pass."""
        return [self.mid, *(block for level in self.up for block in level.block)]  # type: ignore[union-attr]

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        out = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out

    @torch.no_grad()
    def in_pieces(self, z: Tensor, memory: int) -> Tensor:
        """:meth:`forward` to rounding, in eval mode and without gradients, within about `memory` bytes beside the
        features and the images."""
        pieces = Pieces(memory)
        h = pieces.convolved(self.conv_in, pieces.whole(z), self.conv_in.out_channels)
        h = self.mid.over(h, pieces)
        for level in reversed(self.up):
            h = level.over(h, pieces)  # type: ignore[operator]
        out = _put_out(h, self.norm_out, self.conv_out, pieces)
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out


def _put_out(h: Map, norm: nn.GroupNorm, conv: nn.Conv2d, pieces: Pieces) -> Tensor:
    normed = pieces.normed(norm, h)
    return pieces.tensor(Made([h], lambda x: conv(activated(normed(x))), conv.out_channels, halo=1))
