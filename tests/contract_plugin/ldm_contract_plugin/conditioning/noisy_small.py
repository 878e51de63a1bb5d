"""A conditioner that draws: a small picture with noise, which also tells how much."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ldm_contract_plugin.conditioning.config import NoisySmallConfig
from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, Site
from ldm_core.contracts.streams import Streams
from ldm_core.nn.embeddings import timestep_embedding


class NoisySmall(Conditioner, nn.Module):
    """Pictures (B, c, H, W) -> concat (B, c, h, w) = sqrt(1 - s²) small + s noise, and vector, the embedding of s."""

    def __init__(self, config: NoisySmallConfig, site: Site) -> None:
        super().__init__()
        if site.latent is None:
            raise ValueError("noisy_small needs site.latent, whose size its pictures have")
        self.config, self.reads, self.spec = config, config.reads, config.spec(site.latent)
        self.latent = site.latent

    def encode(self, batch: Batch, *, streams: Streams | None = None) -> Cond:
        """Level and noise of each row from its own stream; without streams the clean picture, at level 0."""
        image = batch["image"].float()
        small = F.adaptive_avg_pool2d(image, self.latent.shape(tuple(image.shape[2:]))[1:])  # type: ignore[arg-type]
        level = torch.zeros(len(image), device=image.device)
        if streams is not None:
            level = self.config.most * streams.uniform((len(image),)).to(image)
            s = level.view(-1, 1, 1, 1)
            small = (1 - s.square()).sqrt() * small + s * streams.normal(small.shape).to(image)
        return Cond(concat=small, vector=timestep_embedding(1000 * level, self.config.width))

    def null(self, like: Cond) -> Cond:
        """`like` itself: what is to be made large is not taken away."""
        return like
