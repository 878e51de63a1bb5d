"""A decoder of a third party: one colour a cell of the latents, by a linear map. It takes no large pictures itself."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ldm_contract_plugin.optional.config import FlatColoursConfig
from ldm_core.contracts import Decoder, Site


class FlatColours(nn.Module, Decoder):
    """Latents (B, C, h, w) -> pictures of flat cells."""

    def __init__(self, config: FlatColoursConfig, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.config, self.latent = config, site.latent
        self.colour = nn.Conv2d(site.latent.channels, site.channels, 1)

    def decode(self, z: Tensor) -> Tensor:
        """The colour of each cell, on all of its pixels."""
        factors = [float(each) for each in self.latent.stride]
        return F.interpolate(self.colour(z) * self.config.contrast, scale_factor=factors, mode="nearest").float()
