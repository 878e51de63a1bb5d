"""A denoiser that attends to text and to a picture apart, and the conditioner of the picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_contract_plugin.conditioning.config import PICTURE, TEXT, PatchesConfig, TwoRolesConfig
from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, Denoiser, LatentSpec, Site, Tokens
from ldm_core.nn.attention import CrossAttention
from ldm_core.nn.embeddings import timestep_embedding


class Patches(Conditioner, nn.Module):
    """Pictures (B, 3, H, W) -> the tokens ``picture`` (B, H W / side², width): the mean colour of each patch."""

    def __init__(self, config: PatchesConfig, site: Site) -> None:
        super().__init__()
        self.reads, self.spec = config.reads, config.spec(site.latent or LatentSpec(4))
        self.side = config.side
        self.colour = nn.Linear(site.channels, config.width)
        self.empty = nn.Parameter(0.02 * torch.randn(config.width))

    def encode(self, batch: Batch) -> Cond:
        """A token a patch."""
        patches = F.avg_pool2d(batch["image"].float(), self.side).flatten(2).transpose(1, 2)
        return Cond(tokens={PICTURE: Tokens(self.colour(patches))})

    def null(self, like: Cond) -> Cond:
        """One learned token in every place."""
        values, mask = like.tokens[PICTURE]
        return Cond(tokens={PICTURE: Tokens(self.empty.to(values).expand_as(values), mask)})


class TwoRoles(Denoiser, nn.Module):
    """A convolution in and out, and between them attention of each cell on the text plus that on the picture."""

    def __init__(self, config: TwoRolesConfig, site: Site) -> None:
        super().__init__()
        if site.latent is None:
            raise ValueError("two_roles needs site.latent, the shape of the latents that it denoises")
        width, channels = config.width, site.latent.channels
        self.begin = nn.Conv2d(channels, width, 3, padding=1)
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.text = CrossAttention(width, config.heads, context_dim=site.cond.tokens[TEXT])
        self.picture = CrossAttention(width, config.heads, context_dim=site.cond.tokens[PICTURE])
        self.end = nn.Conv2d(width, channels, 3, padding=1)
        self.width = width

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, h, w), noise_level (B,) -> F (B, C, h, w)."""
        level = self.level(timestep_embedding(noise_level, self.width).to(self.end.weight.dtype))
        h = self.begin(x) + level[..., None, None]
        cells = self.norm(h.flatten(2).transpose(1, 2))
        text, picture = cond.tokens[TEXT], cond.tokens[PICTURE]
        seen = self.text(cells, text.values, text.mask) + self.picture(cells, picture.values, picture.mask)
        return self.end(F.silu(h + seen.transpose(1, 2).unflatten(2, h.shape[2:])))
