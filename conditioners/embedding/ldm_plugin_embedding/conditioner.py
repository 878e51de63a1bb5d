"""The embedding conditioner: precomputed vectors -> cross-attention or vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, LatentSpec, Site
from ldm_core.errors import DataError
from ldm_plugin_embedding.config import EmbeddingConfig

LOOKED_AT = 16
"""Examples looked at before training, so that unfit vectors show at once."""


class EmbeddingConditioner(Conditioner, nn.Module):
    """Vectors (B, L, D) or (B, D), or a list of B arrays (L, D) or (D,), -> crossattn (B, L, D) or vector (B, D).

    With `mask` the number L may differ between examples; shorter ones are filled up with masked zeros. The null is
    zeros or one learned vector, L times; with a mask, the first of them is attended to. Row i depends on example i
    alone.
    """

    def __init__(self, config: EmbeddingConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent or LatentSpec(channels=site.channels))
        self.null_vector: nn.Parameter | None = None
        if config.null == "learned":
            self.null_vector = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        # No part of the state: it tells the device where there is no parameter.
        self.register_buffer("_place", torch.empty(0), persistent=False)

    def fit(self, examples: Iterable[Mapping[str, Any]]) -> None:
        """Look at the first examples, and learn nothing. DataError if their vectors do not fit."""
        for index, example in enumerate(islice(examples, LOOKED_AT)):
            if self.config.key not in example:
                raise DataError(f"example {index} has no '{self.config.key}'; it has: {', '.join(sorted(example))}")
            self._rows(example[self.config.key], index, looked_at=True)

    def encode(self, batch: Batch) -> Cond:
        """Encode the vectors of a batch. DataError naming the example for one of another width or number, or, outside
        of training, with numbers that are not finite."""
        value = batch[self.config.key]
        if isinstance(value, str) or not isinstance(value, Tensor | np.ndarray | list | tuple):
            raise DataError(f"'{self.config.key}' of a batch is {type(value).__name__}, one array an example is needed")
        # A stacked batch has one shape: its first row speaks for all.
        if isinstance(value, Tensor | np.ndarray) and len(value):
            self._rows(value[0], 0)
            tokens = _as_tensor(value).to(self._device()).float()
            tokens = tokens if tokens.dim() == 3 else tokens[:, None]  # (B,L,D)
            lengths = torch.full((len(tokens),), tokens.shape[1])
        else:
            rows = [self._rows(row, index).to(self._device()) for index, row in enumerate(value)]
            lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
            tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else self._empty()
        if not self.training and not bool(tokens.isfinite().all()):
            wrong = int((~tokens.isfinite()).flatten(1).any(1).nonzero()[0, 0])
            raise DataError(f"'{self.config.key}' of example {wrong} holds numbers that are not finite; drop it")
        if self.config.normalize:
            tokens = F.normalize(tokens, dim=-1)  # zeros stay zeros
        if self.config.to == "vector":
            return Cond(vector=tokens[:, 0])
        if self.config.mask:
            mask = torch.arange(tokens.shape[1]) < lengths[:, None]  # (B,L)
            return Cond(crossattn=tokens, crossattn_mask=mask.to(tokens.device))
        if len(lengths) and bool((lengths != lengths[0]).any()):
            other = int((lengths != lengths[0]).nonzero()[0, 0])
            raise DataError(
                f"'{self.config.key}' of example 0 has {int(lengths[0])} vectors and that of example {other} "
                f"{int(lengths[other])}; set mask=true to let numbers differ"
            )
        return Cond(crossattn=tokens)

    def null(self, like: Cond) -> Cond:
        """Zeros, or the learned vector, in the shape of `like`. A mask leaves the first: equal tokens attend as one."""

        def part(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            zeros = torch.zeros_like(value)
            return zeros if self.null_vector is None else zeros + self.null_vector.to(value.dtype)

        mask = like.crossattn_mask
        return Cond(
            crossattn=part(like.crossattn),
            crossattn_mask=None if mask is None else (torch.arange(mask.shape[1]) < 1).to(mask.device).expand_as(mask),
            vector=part(like.vector),
        )

    def _rows(self, value: Any, index: int, *, looked_at: bool = False) -> Tensor:
        """One example's vectors as float32 (L, D), whatever they came as."""
        key, width = self.config.key, self.config.width
        rows = _as_tensor(value) if isinstance(value, Tensor | np.ndarray) else None
        if rows is None or rows.dim() not in (1, 2) or not rows.is_floating_point():
            what = type(value).__name__ if rows is None else f"an array of {rows.dtype} and shape {tuple(rows.shape)}"
            raise DataError(
                f"'{key}' of example {index} is {what}; floats of shape ({width},) or (L, {width}) are needed"
            )
        rows = rows if rows.dim() == 2 else rows[None]
        if rows.shape[1] != width:
            raise DataError(
                f"'{key}' of example {index} is {rows.shape[1]} wide and the conditioner {width}; give vectors of the "
                f"model that it was made for, or train with conditioners.{key}.width={rows.shape[1]}"
            )
        if not len(rows) or (self.config.to == "vector" and len(rows) > 1):
            raise DataError(
                f"'{key}' of example {index} has {len(rows)} vectors; "
                + ("at least one is needed" if not len(rows) else "to=vector takes one, to=crossattn several")
            )
        if looked_at and not bool(rows.isfinite().all()):
            raise DataError(f"'{key}' of example {index} holds numbers that are not finite; drop it")
        return rows.float()

    def _device(self) -> torch.device:
        return self._place.device  # type: ignore[union-attr, return-value]

    def _empty(self) -> Tensor:
        return torch.empty((0, 1, self.config.width), device=self._device())


def _as_tensor(value: Tensor | np.ndarray) -> Tensor:
    """Without a copy if there need be none; numpy's other byte order and read-only arrays are copied."""
    if isinstance(value, Tensor):
        return value
    if value.dtype.kind not in "fiub":
        return torch.empty(0, dtype=torch.bool)  # refused by its type
    native = value.astype(value.dtype.newbyteorder("="), copy=not value.flags.writeable)
    return torch.from_numpy(np.ascontiguousarray(native))
