"""The first stage of Haar wavelets: every 2x2 block becomes its mean and three differences, level by level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_core.contracts import FirstStage, Site
from ldm_core.contracts.streams import Streams
from ldm_core.nn.latents import NormalizedLatents
from ldm_plugin_wavelet.config import HaarConfig


class HaarFirstStage(NormalizedLatents, FirstStage):
    """Images (B, c, H, W) <-> latents (B, c * 4**n, H / 2**n, W / 2**n), an orthonormal map: nothing is lost.

    All bands are divided again at each level (a packet tree), so that one grid holds them all. Channel i of the images
    has the latent channels from ``i * 4**n`` on, the mean of the blocks first. The core's normalisation gives each band
    the same weight in the diffusion's loss.
    """

    def __init__(self, config: HaarConfig, site: Site) -> None:
        super().__init__(config.latent.channels)
        if misfits := list(config.check(site)):
            raise ValueError("; ".join(misfits))
        self.latent, self.levels = config.latent, config.levels

    def encode_moments(self, x: Tensor) -> Tensor:
        """Images (B, c, H, W) -> wavelet coefficients (B, c * 4**n, h, w), float32."""
        self.latent.shape(tuple(x.shape[2:]))
        bands = x.float()
        for _ in range(self.levels):
            bands = _butterfly(F.pixel_unshuffle(bands, 2))
        return bands

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """Coefficients -> normalised ones; nothing is drawn."""
        return self.normalized(moments)

    def decode(self, z: Tensor) -> Tensor:
        """Normalised coefficients -> images, not clamped."""
        return self._images(self.denormalized(z))

    def project(self, z: Tensor) -> Tensor:
        """The coefficients of the nearest image: its pixels are clamped to [-1, 1]."""
        return self.normalized(self.encode_moments(self.decode(z).clamp(-1.0, 1.0)))

    def _images(self, bands: Tensor) -> Tensor:
        for _ in range(self.levels):
            bands = F.pixel_shuffle(_butterfly(bands), 2)
        return bands


def _butterfly(blocks: Tensor) -> Tensor:
    """The Haar transform of groups of four channels, a 2x2 block each (B, 4k, h, w). It is its own inverse."""
    a, b, c, d = blocks.unflatten(1, (-1, 4)).unbind(2)
    top, bottom, left, right = a + b, c + d, a - b, c - d
    return torch.stack([top + bottom, left + right, top - bottom, left - right], 2).flatten(1, 2) / 2
