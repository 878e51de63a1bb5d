"""A conditioner that reads a small picture, and makes none."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from ldm_contract_plugin.optional.config import SmallPictureConfig
from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, Site
from ldm_core.errors import DataError


class SmallPicture(Conditioner, nn.Module):
    """Pictures (B, 3, h, w) of half the size, nearest to the latents' grid."""

    def __init__(self, config: SmallPictureConfig, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.config, self.reads, self.spec = config, config.reads, config.spec(site.latent)
        self._grid, self._taken = (
            site.latent.shape(site.size)[1:],
            config.taken_sizes((site.size[0], site.size[1]), site.latent),
        )

    def encode(self, batch: Batch) -> Cond:
        """Small pictures alone are taken; DataError for any other size."""
        small = batch[self.config.key]
        if tuple(small.shape[2:]) != self._taken[self.config.key]:
            raise DataError(f"'{self.config.key}' is {tuple(small.shape)}, and not small")
        return Cond(concat=F.interpolate(small.float(), self._grid))

    def null(self, like: Cond) -> Cond:
        """The picture itself."""
        return like
