"""A network with a learned table of positions, which has a largest size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm_contract_plugin.optional.config import TableDenoiserConfig
from ldm_core.contracts import Denoiser, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.nn.embeddings import timestep_embedding


class PositionTable(Denoiser, nn.Module):
    """F as two convolutions on latents (B, C, h, w) beside the middle (h, w) of the table and the noise level."""

    def __init__(self, config: TableDenoiserConfig, site: Site) -> None:
        super().__init__()
        if site.latent is None:
            raise ValueError("position_table needs site.latent, the shape of the latents that it denoises")
        self.config, width, channels = config, config.width, site.latent.channels
        self.table = nn.Parameter(0.1 * torch.randn(width, config.rows, config.rows))
        self.level = nn.Linear(width, width)
        self.vector = nn.Linear(site.cond.vector, width) if site.cond.vector else None
        self.tokens = nn.Linear(site.cond.crossattn, width) if site.cond.crossattn else None
        self.first = nn.Conv2d(channels + site.cond.concat, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, h, w), noise_level (B,) -> F (B, C, h, w); ValueError for latents larger than the table."""
        rows = self.config.rows
        height, width = x.shape[-2:]
        if height > rows or width > rows:
            raise ValueError(f"latents of {height} x {width}, and the table has {rows} x {rows}")
        top, left = (rows - height) // 2, (rows - width) // 2
        positions = self.table[:, top : top + height, left : left + width]
        shift = self.level(timestep_embedding(noise_level, self.config.width).to(self.level.weight.dtype))
        if self.vector is not None and cond.vector is not None:
            shift = shift + self.vector(cond.vector)
        if self.tokens is not None and cond.crossattn is not None:
            mask = torch.ones_like(cond.crossattn[..., 0]) if cond.crossattn_mask is None else cond.crossattn_mask
            weight = mask.to(cond.crossattn)[..., None]
            shift = shift + (self.tokens(cond.crossattn) * weight).sum(1) / weight.sum(1)
        x = x if cond.concat is None else torch.cat([x, cond.concat], 1)
        return self.last(torch.tanh(self.first(x) + positions + shift[..., None, None]))
