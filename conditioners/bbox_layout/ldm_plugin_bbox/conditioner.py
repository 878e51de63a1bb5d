"""The layout conditioner: boxes and classes -> tokens -> transformer encoder -> cross-attention; on request boxes drawn
onto the latents' grid -> concat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, LatentSpec, Site
from ldm_core.errors import ConfigError, DataError
from ldm_core.nn.transformer import TokenTransformer
from ldm_plugin_bbox.config import LayoutConfig
from ldm_plugin_bbox.drawing import drawn_boxes
from ldm_plugin_bbox.tokens import layout_tokens, ordered, tokens_of


class LayoutConditioner(Conditioner, nn.Module):
    """Boxes (B times (N_i, 4), x y w h in [0, 1]) and classes (B times (N_i,)) -> crossattn (B, length, width), and
    with `map_channels` concat (B, map_channels, h, w), h and w the latents'.

    See :func:`ldm_plugin_bbox.tokens.layout_tokens` for the tokens, :func:`ldm_plugin_bbox.drawing.drawn_boxes` for the
    drawing. The null is the layout without objects, of the full image; its drawing is zeros. Row i depends on example i
    alone. ConfigError if there is a drawing and the latents are not known.
    """

    def __init__(self, config: LayoutConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent or LatentSpec(channels=site.channels))
        self.class_tables = {"transformer.token_emb.weight": (config.labels, 0)}
        self.transformer = TokenTransformer.of(config, config.length)
        if config.map_channels:
            if site.latent is None:
                raise ConfigError(
                    "bbox_layout: map_channels needs the grid of a first stage; set map_channels=0 without"
                )
            self.grid = site.latent.shape(site.size)[1:]
            if config.classes:
                self.class_tables["map_class.weight"] = (config.labels, 1)
            # without bias: a cell without a box gives zeros, as the null does; of unknown classes all are alike
            self.map_class = nn.Conv2d(max(config.classes, 1), config.map_channels, 1, bias=False)
            self.map_place = nn.Conv2d(2, config.map_channels, 1, bias=False)

    def encode(self, batch: Batch) -> Cond:
        """Encode the layouts of a batch, stacked or lists. DataError naming the example and the box or class."""
        c = self.config
        boxes, labels = _rows(batch[c.boxes]), _rows(batch[c.labels])
        if len(boxes) != len(labels):
            raise DataError(f"'{c.boxes}' has {len(boxes)} examples and '{c.labels}' {len(labels)}; give one for each")
        crops: Sequence[Any] = _rows(batch[c.crop]) if c.encode_crop and c.crop else [None] * len(boxes)
        layouts = [ordered(b, k, c, where=f"example {i}") for i, (b, k) in enumerate(zip(boxes, labels, strict=True))]
        rows = [
            tokens_of(*layout, c, crop=crop, where=f"example {i}")
            for i, (layout, crop) in enumerate(zip(layouts, crops, strict=True))
        ]
        tokens = np.stack(rows) if rows else np.zeros((0, c.length), np.int64)
        return Cond(crossattn=self._embed(tokens), concat=self._draw(layouts) if c.map_channels else None)

    def omitted(self, example: Mapping[str, Any]) -> str:
        """The part of an example beyond ``objects``, said for the user; "" if all of it is encoded."""
        more = len(example[self.config.boxes]) - self.config.objects
        taken = self.config.objects
        return f"the {more} smallest of {more + taken} boxes (objects: {taken})" if more > 0 else ""

    def null(self, like: Cond) -> Cond:
        """The encoding of the layout without objects, once for each row of `like`, in the length of `like`.

        A longer `like` (learned tokens were added) gets the last vector repeated.
        """
        one = self._embed(layout_tokens((), (), self.config)[None])
        own = self.config.length
        length = like.crossattn.shape[1] if like.crossattn is not None else own
        if length != own:
            one = one[:, torch.arange(length, device=one.device).clamp(max=own - 1)]
        concat = None if like.concat is None else torch.zeros_like(like.concat)
        return Cond(crossattn=one.expand(like.rows() or 0, -1, -1), concat=concat)

    def _draw(self, layouts: list[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        """Objects in their order -> the channels of their drawings (B, map_channels, h, w)."""
        weight = self.map_class.weight
        h, w = self.grid
        found, place = np.full((len(layouts), h, w), -1), np.zeros((len(layouts), 2, h, w), np.float32)
        for i, layout in enumerate(layouts):
            found[i], place[i] = drawn_boxes(*layout, (h, w))
        classes = torch.from_numpy(found).to(weight.device).clamp(max=weight.shape[1] - 1)
        shares = F.one_hot(classes + 1, weight.shape[1] + 1)[..., 1:].movedim(-1, 1).to(weight.dtype)
        places = torch.from_numpy(place).to(weight.device, weight.dtype)
        # Autocast may lower the convolutions; null has the weight's precision, so has this.
        return (self.map_class(shares) + self.map_place(places)).to(weight.dtype)

    def _embed(self, tokens: np.ndarray) -> Tensor:
        weight = self.transformer.token_emb.weight
        return self.transformer(torch.from_numpy(tokens).to(weight.device))  # (B, length) -> (B, length, width)


def _rows(values: Any) -> list[Any]:
    """One array (or nested list) for each example, on the CPU."""
    if isinstance(values, Tensor):
        return list(values.detach().cpu().numpy())
    return [v.detach().cpu().numpy() if isinstance(v, Tensor) else v for v in values]
