"""The network of small decoders: convolutions, ReLU and nearest upsampling, without norms.

Source: TAESD, https://github.com/madebyollin/taesd. With the default shape at factor 8 and 4 channels, the names and
shapes of its tensors are those of the published ``taesd_decoder``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Decoder, Site
from ldm_core.errors import ConfigError
from ldm_plugin_tiny_decoder.config import TinyDecoderConfig, steps_of

_MAPS = 4  # maps of a window's widest level that are held at once
_LEAST = 4  # cells of a window's own side


class Clamp(nn.Module):
    """Latents within (-3, 3), smoothly."""

    def forward(self, z: Tensor) -> Tensor:
        """3 tanh(z / 3)."""
        return torch.tanh(z / 3) * 3


class Block(nn.Module):
    """Three 3x3 convolutions with ReLU between, beside the input as it is, and a ReLU after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same shape."""
        return F.relu(self.conv(x) + x)


class Upsample(nn.Module):
    """Nearest upsampling by whole numbers."""

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = tuple(map(float, factors))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c, h f, w g)."""
        return F.interpolate(x, scale_factor=self.factors, mode="nearest")


class TinyDecoder(nn.Sequential, Decoder):
    """Latents (B, C, h, w) of any size to pictures."""

    def __init__(self, config: TinyDecoderConfig, site: Site) -> None:
        if problems := list(TinyDecoderConfig.check(config, site)):
            raise ConfigError([f"decoder: {line}" for line in problems])
        if site.latent is None:
            raise ConfigError("decoder: it is built for latents, and the site knows none")
        steps = steps_of(site.latent.stride)
        widths = config.widths_of(len(steps) + 1)
        parts: list[nn.Module] = [Clamp(), nn.Conv2d(site.latent.channels, widths[0], 3, padding=1), nn.ReLU()]
        for factors, width, finer in zip(steps, widths, widths[1:], strict=False):
            parts += [Block(width) for _ in range(config.blocks)]
            parts += [Upsample(factors), nn.Conv2d(width, finer, 3, padding=1, bias=False)]
        parts += [Block(widths[-1]) for _ in range(config.last_blocks)]
        super().__init__(*parts, nn.Conv2d(widths[-1], site.channels, 3, padding=1))
        self.config, self.latent = config, site.latent

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, c, H, W) on the scale of [-1, 1].

        Without gradients a CPU keeps the channels of a place together: 0.62 to 0.85 of the time, equal to rounding.
        """
        if z.device.type == "cpu" and not torch.is_grad_enabled():
            z = z.contiguous(memory_format=torch.channels_last)
        made: Tensor = self(z) * 2 - 1
        return made.contiguous()

    def decode_in_pieces(self, z: Tensor, memory: int) -> Tensor:
        """:meth:`decode` by windows with all cells of effect on their pixels, within about `memory` bytes."""
        reach, side = self.reach, self.window(memory)
        (down, right), (height, width) = self.latent.stride, z.shape[2:]
        out: Tensor | None = None
        for top in range(0, height, side):
            for left in range(0, width, side):
                first = max(top - reach[0], 0), max(left - reach[1], 0)
                seen = z[:, :, first[0] : top + side + reach[0], first[1] : left + side + reach[1]]
                made = self.decode(seen)[:, :, (top - first[0]) * down :, (left - first[1]) * right :]
                made = made[:, :, : side * down, : side * right]
                if out is None:
                    out = made.new_empty(len(z), made.shape[1], height * down, width * right)
                out[:, :, top * down : (top + side) * down, left * right : (left + side) * right] = made
        assert out is not None
        return out

    @property
    def reach(self) -> tuple[int, int]:
        """The cells on each side with an effect on a cell's pixels, on both axes."""
        cells = [0, 0]
        for part in reversed(list(self)):
            if isinstance(part, Upsample):
                cells = [-(-each // int(factor)) for each, factor in zip(cells, part.factors, strict=True)]
            else:
                count = 3 if isinstance(part, Block) else int(isinstance(part, nn.Conv2d))
                cells = [each + count for each in cells]
        return cells[0], cells[1]

    def window(self, memory: int) -> int:
        """The side in cells of a window with maps of about `memory` bytes, without the cells beyond it."""
        area = memory / (4 * _MAPS * max(self._values()))
        return max(int(area**0.5) - 2 * max(self.reach), _LEAST)

    def _values(self) -> Iterator[int]:
        """The values of each convolution's map to a cell of the latents."""
        scale = 1.0
        for part in self.modules():
            if isinstance(part, Upsample):
                scale *= part.factors[0] * part.factors[1]
            elif isinstance(part, nn.Conv2d):
                yield int(part.out_channels * scale)

    def recompute_blocks(self) -> list[nn.Module]:
        """The residual blocks."""
        return [part for part in self if isinstance(part, Block)]

    @property
    def last_layer(self) -> Tensor:
        """The weight of the last convolution."""
        last = self[-1]
        assert isinstance(last, nn.Conv2d)
        return last.weight
