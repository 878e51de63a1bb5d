"""Small trained networks, and calls of every sort, for a runtime to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Cond, CondSpec, Network
from ldm_core.contracts.values import Precision
from ldm_core.testing import batches, toys
from ldm_core.testing.base import randomize, seeded

Arguments: TypeAlias = tuple[Any, ...]
CELLS = ((8, 8), (4, 12), (12, 8))
"""Heights and widths of latents."""
ROWS = ((0, 1), (2,), (0, 1, 2, 3, 4))
"""Batches, by the numbers of their examples."""


class ToyStage(nn.Module):
    """Convolutions to moments and back at a quarter of the size, with a norm and attention between."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.GroupNorm(2, 8)
        self.moments = nn.Conv2d(8, 8, 1)
        self.up = nn.Conv2d(4, 8, 1)
        self.sharp = nn.Conv2d(8, 3, 3, padding=1)

    def encode_moments(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> (B, 8, H / 4, W / 4)."""
        h = F.silu(self.norm(self.down(x)))
        tokens = h.flatten(2).transpose(1, 2)
        seen = F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).reshape(h.shape)
        return self.moments(h + seen)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, 4, h, w) -> (B, 3, 4 h, 4 w)."""
        return self.sharp(F.interpolate(F.silu(self.up(z)), scale_factor=4.0, mode="nearest"))


def network(name: str, *, seed: int = 0, precision: Precision = "fp32") -> Network:
    """A network of this name, frozen, its weights drawn under `seed`."""
    with seeded(seed):
        made = toys.ToyDenoiser(cond=CondSpec(crossattn=6, vector=5)) if name == "denoiser" else ToyStage()
    randomize(made, seed + 1)
    return Network(name, made.eval().requires_grad_(False), precision)


NAMES = ("denoiser", "encode_moments", "decode")


def arguments(name: str, rows: Sequence[int] = (0, 1), cells: tuple[int, int] = (8, 8), **parts: Any) -> Arguments:
    """The arguments of a call with the examples `rows`; `parts` of the bundle in place of those by default."""
    if name != "denoiser":
        shape = (3, 4 * cells[0], 4 * cells[1]) if name == "encode_moments" else (4, *cells)
        return (batches.normal(rows, shape, name),)
    tokens = batches.normal(rows, (3, 6), "tokens")
    cond = Cond(crossattn=tokens, vector=batches.normal(rows, (5,), "vector"))._replace(**parts)
    return batches.normal(rows, (4, *cells), "x"), torch.tensor([100.0 * (i + 1) for i in rows]), cond


def bundles() -> Mapping[str, Arguments]:
    """Calls of a denoiser as guidance makes them: with a mask and without, with longer tokens, fewer parts, options."""
    rows = (0, 1, 2)
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    longer = batches.normal(rows, (7, 6), "longer")
    return {
        "with all parts": arguments("denoiser", rows),
        "with a mask": arguments("denoiser", rows, crossattn_mask=mask),
        "with another mask": arguments("denoiser", rows, crossattn_mask=mask.flip(0)),
        "of more tokens": arguments("denoiser", rows, crossattn=longer),
        "without tokens": arguments("denoiser", rows, crossattn=None),
        "without a vector": arguments("denoiser", rows, vector=None),
        "with an option": arguments("denoiser", rows, options={"word": 1}),
        "of strided tokens": arguments("denoiser", rows, crossattn=longer.transpose(0, 1).contiguous().transpose(0, 1)),
    }
