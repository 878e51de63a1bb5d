"""A first stage of a third party: patches through one linear map and back. It names no objective and has no GAN."""

from __future__ import annotations

from torch import Tensor, nn

from ldm_contract_plugin.config import PatchesConfig
from ldm_core.contracts import FirstStage, Reconstruction, Site
from ldm_core.contracts.streams import Streams
from ldm_core.nn.latents import NormalizedLatents


class Patches(NormalizedLatents, FirstStage):
    """Images (B, c, H, W) <-> latents (B, channels, H / side, W / side), a linear map of each patch."""

    def __init__(self, config: PatchesConfig, site: Site) -> None:
        super().__init__(config.channels)
        self.latent = config.latent
        self.encoder = nn.Conv2d(site.channels, config.channels, config.side, stride=config.side)
        self.decoder = nn.ConvTranspose2d(config.channels, site.channels, config.side, stride=config.side)

    @property
    def encoder_layer(self) -> Tensor:
        """At which auxiliary losses compare gradients."""
        return self.encoder.weight

    def encode_moments(self, x: Tensor) -> Tensor:
        """Images -> raw latents."""
        self.latent.shape(tuple(x.shape[2:]))
        return self.encoder(x).float()

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """Raw latents -> normalised ones."""
        return self.normalized(moments)

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents -> images."""
        return self.decoder(self.denormalized(z)).float()

    def project(self, z: Tensor) -> Tensor:
        """Every latent means an image."""
        return z

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        """One pass, without regularisation."""
        z = self.encode_moments(x)
        return Reconstruction(self.decoder(z).float(), z.new_zeros(()) * z.sum(), z=z)
