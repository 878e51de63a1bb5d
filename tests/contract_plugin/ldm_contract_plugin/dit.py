"""A small diffusion transformer with adaLN-Zero, cross-attention and a learned variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm_contract_plugin.config import SECOND_TOKENS, TinyDiTConfig
from ldm_core.contracts import BlockSpan, Denoiser, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.nn.attention import CrossAttention
from ldm_core.nn.embeddings import timestep_embedding
from ldm_core.nn.norms import zero_init

_CONTEXT, _MASK = "dit_context", "dit_mask"


class Block(nn.Module):
    """Self-attention, cross-attention and an MLP on tokens (B, N, D), scaled, shifted and gated by the noise level."""

    def __init__(self, width: int, heads: int, context: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = CrossAttention(width, heads)
        self.cross = CrossAttention(width, heads, context_dim=width) if context else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), zero_init(nn.Linear(width, 6 * width)))

    def forward(self, h: Tensor, level: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(level)[:, None].chunk(6, dim=-1)  # (B, 1, D) each
        h = h + gate * self.attention(self.norm(h) * (1 + scale) + shift)
        if self.cross is not None and context is not None:
            h = h + self.cross(self.norm(h), context, mask)
        return h + gate2 * self.mlp(self.norm(h) * (1 + scale2) + shift2)


class TinyDiT(Denoiser, nn.Module):
    """The network F as a transformer on patches: latents (B, C, h, w), any h and w divisible by `patch`.

    Puts out C channels, or with `learned_sigma` 2 C. Both sets of tokens are brought to one width and attended to
    together; `prepare` does that once a run.
    """

    def __init__(self, config: TinyDiTConfig, site: Site) -> None:
        super().__init__()
        if site.latent is None:
            raise ValueError("tiny_dit needs site.latent, the shape of the latents that it denoises")
        self.config, self.spec = config, site.cond
        self.channels, width = site.latent.channels, config.width
        out = self.channels * (2 if config.learned_sigma else 1)
        self.embed = nn.Conv2d(self.channels, width, config.patch, stride=config.patch)
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(site.cond.crossattn, width) if site.cond.crossattn else None
        extra = site.cond.extras.get(SECOND_TOKENS)
        second_width = extra[-1] if extra else None
        self.second = nn.Linear(second_width, width) if second_width else None
        self.vector = nn.Linear(site.cond.vector, width) if site.cond.vector else None
        has_context = self.first is not None or self.second is not None
        self.blocks = nn.ModuleList(Block(width, config.heads, has_context) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = zero_init(nn.Linear(width, config.patch**2 * out))

    def recompute_blocks(self) -> list[nn.Module]:
        """The transformer blocks."""
        return list(self.blocks)

    def reusable_spans(self) -> list[BlockSpan]:
        """The blocks from each one on: they add to the tokens."""
        blocks = list(self.blocks)
        return [BlockSpan(blocks[i:], residual=True) for i in range(len(blocks))]

    def prepare(self, cond: Cond) -> Cond:
        """Both sets of tokens as one context, under names of our own in `extras`."""
        parts, masks = [], []
        if self.first is not None and cond.crossattn is not None:
            parts.append(self.first(cond.crossattn))
            mask = cond.crossattn_mask
            masks.append(torch.ones_like(cond.crossattn[..., 0], dtype=torch.bool) if mask is None else mask)
        if self.second is not None:
            tokens = cond.extras[SECOND_TOKENS]
            parts.append(self.second(tokens))
            masks.append(torch.ones_like(tokens[..., 0], dtype=torch.bool))
        if not parts:
            return cond
        return cond._replace(extras={**cond.extras, _CONTEXT: torch.cat(parts, 1), _MASK: torch.cat(masks, 1)})

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, h, w), noise_level (B,) -> F and, with a learned variance, C channels more."""
        if _CONTEXT not in cond.extras:
            cond = self.prepare(cond)
        context, mask = cond.extras.get(_CONTEXT), cond.extras.get(_MASK)
        dtype = self.out.weight.dtype
        h = self.embed(x.to(dtype))  # (B, D, h / p, w / p)
        rows, columns = h.shape[2:]
        h = h.flatten(2).transpose(1, 2) + positions(rows, columns, self.config.width).to(h)  # (B, N, D)
        level = self.level(timestep_embedding(noise_level, self.config.width).to(dtype))
        if self.vector is not None and cond.vector is not None:
            level = level + self.vector(cond.vector.to(dtype))
        for block in self.blocks:
            h = block(h, level, context, mask)
        shift, scale = self.modulation(level)[:, None].chunk(2, dim=-1)
        h = self.out(self.norm(h) * (1 + scale) + shift)  # (B, N, C' p p)
        p = self.config.patch
        h = h.unflatten(1, (rows, columns)).unflatten(3, (-1, p, p))  # (B, rows, columns, C', p, p)
        return h.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # (B, C', h, w)


def positions(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of each cell's row and column, (rows · columns, width), row by row."""
    frequencies = 100.0 ** -torch.linspace(0, 1, width // 4)
    parts = []
    for axis in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"):
        angle = axis.flatten()[:, None] * frequencies
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, 1)
