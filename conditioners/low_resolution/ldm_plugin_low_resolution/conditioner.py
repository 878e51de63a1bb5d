"""The low-resolution conditioner: a small picture in [-1, 1], concatenated to the latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, Site
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_low_resolution.config import LowResolutionConfig


class LowResolutionConditioner(Conditioner, nn.Module):
    """Pictures (B, c, H, W) in [-1, 1] -> concat (B, c, h, w), h and w the latents'; nothing is learned or drawn.

    A picture made small here is rounded to 256 levels: training sees the content of a saved small picture. A small
    picture of another size than the latents' (a factor that is not their stride) is resized to theirs, bicubic and
    antialiased, without rounding. With `encoded` it is enlarged to the full size (H, W), bicubic, and concat
    (B, C, h, w) holds its C channels of latents, without noise and in float32 whatever the autocast. ConfigError if the
    latents, or for `encoded` the first stage's encode, are not known at construction.
    """

    def __init__(self, config: LowResolutionConfig, site: Site) -> None:
        super().__init__()
        if site.latent is None:
            raise ConfigError("low_resolution: the first stage's latents are not known; build it behind a first stage")
        if config.encoded and site.encode is None:
            raise ConfigError("low_resolution: encoded needs the first stage's encode; build it behind one")
        self._encode = site.encode  # a function, so that the first stage is not registered here
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent)
        self.size = tuple(site.size)
        self.grid = tuple(site.latent.shape(site.size)[1:])
        self.small = config.taken_sizes((site.size[0], site.size[1]), site.latent)[config.key]

    def encode(self, batch: Batch) -> Cond:
        """Small pictures: those of the small size as they are, larger ones reduced to it.

        DataError for smaller pictures, or another number of channels, naming both numbers.
        """
        images = batch[self.config.key]
        wanted = self.config.image_channels
        if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != wanted:
            shape = tuple(images.shape) if isinstance(images, Tensor) else f"a {type(images).__name__}"
            raise DataError(f"'{self.config.key}' is {shape}; pictures (B, {wanted}, height, width) are needed")
        height, width = images.shape[2:]
        if height < self.small[0] or width < self.small[1]:
            raise DataError(
                f"'{self.config.key}' is {height}x{width}; give it at {self.small[0]}x{self.small[1]}, to be taken as "
                f"it is, or larger, to be made small (height x width)"
            )
        small = images.float() if (height, width) == self.small else self._reduced(images.float())
        if self.config.encoded:
            return Cond(concat=self._latents(small))
        if self.small == self.grid:
            return Cond(concat=small)
        return Cond(concat=F.interpolate(small, self.grid, mode="bicubic", antialias=True).clamp(-1, 1))

    def null(self, like: Cond) -> Cond:
        """`like` itself: the picture to enlarge is not taken away; zeros if the config allows it, which are mid-grey or
        the mean of latents."""
        return like.map(torch.zeros_like) if self.config.droppable else like

    def _latents(self, small: Tensor) -> Tensor:
        assert self._encode is not None
        with torch.autocast(small.device.type, enabled=False):
            large = F.interpolate(small, self.size, mode="bicubic", antialias=True)  # of the kernel that reduces, too
            return self._encode(large.clamp(-1, 1)).float()

    def _reduced(self, images: Tensor) -> Tensor:
        if self.config.reduce == "area":
            small = F.interpolate(images, self.small, mode="area")
        else:
            small = F.interpolate(images, self.small, mode="bicubic", antialias=True)
        return ((small.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
