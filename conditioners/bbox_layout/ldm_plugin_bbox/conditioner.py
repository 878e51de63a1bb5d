"""The layout conditioner: boxes and classes -> tokens -> transformer encoder -> cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, LatentSpec, Site
from ldm_core.errors import DataError
from ldm_core.nn.transformer import TokenTransformer
from ldm_plugin_bbox.config import LayoutConfig
from ldm_plugin_bbox.tokens import layout_tokens


class LayoutConditioner(Conditioner, nn.Module):
    """Boxes (B times (N_i, 4), x y w h in [0, 1]) and classes (B times (N_i,)) -> crossattn (B, length, width).

    See :func:`ldm_plugin_bbox.tokens.layout_tokens` for the tokens. The null is the layout without objects, of the
    full image. Row i depends on example i alone.
    """

    def __init__(self, config: LayoutConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent or LatentSpec(channels=site.channels))
        self.class_tables = {"transformer.token_emb.weight": (config.labels, 0)}
        self.transformer = TokenTransformer.of(config, config.length)

    def encode(self, batch: Batch) -> Cond:
        """Encode the layouts of a batch, stacked or lists. DataError naming the example and the box or class."""
        c = self.config
        boxes, labels = _rows(batch[c.boxes]), _rows(batch[c.labels])
        if len(boxes) != len(labels):
            raise DataError(f"'{c.boxes}' has {len(boxes)} examples and '{c.labels}' {len(labels)}; give one for each")
        crops: Sequence[Any] = _rows(batch[c.crop]) if c.encode_crop and c.crop else [None] * len(boxes)
        rows = [
            layout_tokens(b, k, c, crop=crop, where=f"example {i}")
            for i, (b, k, crop) in enumerate(zip(boxes, labels, crops, strict=True))
        ]
        tokens = np.stack(rows) if rows else np.zeros((0, c.length), np.int64)
        return Cond(crossattn=self._embed(tokens))

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
        return Cond(crossattn=one.expand(like.rows() or 0, -1, -1))

    def _embed(self, tokens: np.ndarray) -> Tensor:
        weight = self.transformer.token_emb.weight
        return self.transformer(torch.from_numpy(tokens).to(weight.device))  # (B, length) -> (B, length, width)


def _rows(values: Any) -> list[Any]:
    """One array (or nested list) for each example, on the CPU."""
    if isinstance(values, Tensor):
        return list(values.detach().cpu().numpy())
    return [v.detach().cpu().numpy() if isinstance(v, Tensor) else v for v in values]
