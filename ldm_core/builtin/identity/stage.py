"""The first stage that leaves images as they are, so that the denoiser works on pixels."""

from __future__ import annotations

from torch import Tensor

from ldm_core.builtin.identity.config import IdentityConfig
from ldm_core.contracts import FirstStage, Site
from ldm_core.contracts.streams import Streams
from ldm_core.nn.latents import NormalizedLatents


class IdentityFirstStage(NormalizedLatents, FirstStage):
    """Latents are pixels, normalised by the data's mean and std once the core has measured them."""

    def __init__(self, config: IdentityConfig, site: Site) -> None:
        super().__init__(config.channels)
        if misfits := list(config.check(site)):
            raise ValueError("; ".join(misfits))
        self.latent = config.latent

    def encode_moments(self, x: Tensor) -> Tensor:
        """Images (B,C,H,W) -> the same, float32."""
        return x.float()

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """Pixels (B,C,H,W) -> normalised pixels; nothing is drawn."""
        return self.normalized(moments)

    def decode(self, z: Tensor) -> Tensor:
        """Normalised pixels -> images, not clamped."""
        return self.denormalized(z)

    def project(self, z: Tensor) -> Tensor:
        """The nearest image: pixels clamped to [-1, 1]."""
        return self.normalized(self.denormalized(z).clamp(-1.0, 1.0))
