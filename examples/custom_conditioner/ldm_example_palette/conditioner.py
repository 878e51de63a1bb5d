"""The conditioner `palette`: steers by the colours that an image holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, LatentSpec, Site
from ldm_core.errors import DataError
from ldm_example_palette.config import PaletteConfig


class Palette(Conditioner, nn.Module):
    """Colours (K, 3), each red, green, blue in 0 to 255 -> K tokens; K is the image's own."""

    def __init__(self, config: PaletteConfig, site: Site) -> None:
        super().__init__()
        self.reads = config.reads
        self.spec = config.spec(site.latent or LatentSpec(channels=4))
        self.token = nn.Sequential(nn.Linear(3, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.nothing = nn.Parameter(0.02 * torch.randn(config.width))

    def encode(self, batch: Batch) -> Cond:
        """`palette`, B palettes of any lengths -> tokens (B, longest, width), and a mask of those that are there."""
        palettes = [_checked(p, i).to(self.nothing) for i, p in enumerate(batch["palette"])]
        colours = pad_sequence(palettes, batch_first=True)  # (B, longest, 3)
        count = torch.tensor([len(p) for p in palettes], device=colours.device)
        there = torch.arange(colours.shape[1], device=colours.device) < count[:, None]  # (B, longest)
        return Cond(crossattn=self.token(colours / 127.5 - 1), crossattn_mask=there)

    def null(self, like: Cond) -> Cond:
        """What stands for "no palette": one learned token in every place of `like`."""
        assert like.crossattn is not None
        return like._replace(crossattn=self.nothing.to(like.crossattn).expand_as(like.crossattn))


def _checked(palette: Any, index: int) -> Tensor:
    """One palette as a tensor (K, 3); what a user may have typed is looked at here."""
    try:
        colours = palette if isinstance(palette, Tensor) else torch.tensor(_plain(palette), dtype=torch.float32)
    except (TypeError, ValueError):
        colours = torch.empty(0)
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) == 0:
        raise DataError(
            f"the palette of example {index} is {str(palette)[:60]!r}; expected a list of one or more "
            "[red, green, blue], such as [[255, 0, 0], [20, 20, 20]]"
        )
    if bool((colours < 0).any()) or bool((colours > 255).any()):
        raise DataError(f"the palette of example {index} leaves 0 to 255: {colours.tolist()}")
    return colours


def _plain(palette: Any) -> Sequence[Any]:
    return palette.tolist() if hasattr(palette, "tolist") else list(palette)
