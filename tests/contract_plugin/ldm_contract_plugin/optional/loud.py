"""Parts whose numbers leave the range of fp16."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_contract_plugin.optional.config import LoudClassConfig, LoudStageConfig
from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, FirstStage, LatentSpec, Site
from ldm_core.contracts.streams import Streams
from ldm_core.nn.latents import NormalizedLatents


class LoudStage(NormalizedLatents, FirstStage):
    """Latents are normalised pixels; both ways lead through a convolution that makes them loud, and soft again."""

    louder: Tensor

    def __init__(self, config: LoudStageConfig, site: Site) -> None:
        super().__init__(config.latent.channels)
        self.config, self.latent = config, config.latent
        self.register_buffer("louder", config.loudness * torch.eye(3)[..., None, None])

    def encode_moments(self, x: Tensor) -> Tensor:
        """Images (B,3,H,W) -> the same, float32."""
        return self._through(x).float()

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """Pixels (B,3,H,W) -> normalised pixels; nothing is drawn."""
        return self.normalized(moments)

    def decode(self, z: Tensor) -> Tensor:
        """Normalised pixels -> images, not clamped."""
        return self._through(self.denormalized(z)).float()

    def project(self, z: Tensor) -> Tensor:
        """The nearest image: pixels clamped to [-1, 1]."""
        return self.normalized(self.denormalized(z).clamp(-1.0, 1.0))

    def _through(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.louder) / self.config.loudness


class LoudClass(Conditioner, nn.Module):
    """A vector (B, width) of the class, through a layer of large weights."""

    def __init__(self, config: LoudClassConfig, site: Site) -> None:
        super().__init__()
        self.reads, self.spec = config.reads, config.spec(site.latent or LatentSpec(4))
        self.table = nn.Embedding(config.classes, config.width)
        self.loud = nn.Linear(config.width, config.width)
        self.nothing = nn.Parameter(0.1 * torch.randn(config.width))
        nn.init.normal_(self.loud.weight, std=1e5)

    def encode(self, batch: Batch) -> Cond:
        """The class's vector."""
        labels = torch.as_tensor(batch["class_label"], device=self.table.weight.device).long()
        return Cond(vector=1e-5 * self.loud(self.table(labels)))

    def null(self, like: Cond) -> Cond:
        """A learned vector."""
        assert like.vector is not None
        return like._replace(vector=self.nothing.to(like.vector).expand_as(like.vector))
