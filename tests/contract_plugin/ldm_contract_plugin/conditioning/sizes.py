"""A conditioner of a picture's original size, crop offset and target size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm_contract_plugin.conditioning.config import SizesConfig
from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, LatentSpec, Site
from ldm_core.errors import DataError
from ldm_core.nn.embeddings import timestep_embedding


class Sizes(Conditioner, nn.Module):
    """Three pairs of numbers (B, 2) -> vector (B, 6 width); nothing is learned."""

    def __init__(self, config: SizesConfig, site: Site) -> None:
        super().__init__()
        self.width, self.reads, self.spec = config.width, config.reads, config.spec(site.latent or LatentSpec(4))

    def encode(self, batch: Batch) -> Cond:
        """DataError for a value that is no pair of numbers."""
        numbers = torch.cat([_pairs(key, batch[key]) for key in self.reads], 1)
        embedded = timestep_embedding(numbers.flatten(), self.width)
        return Cond(vector=embedded.unflatten(0, numbers.shape).flatten(1))

    def null(self, like: Cond) -> Cond:
        """`like` itself: a picture has a size."""
        return like


def _pairs(key: str, values: object) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[1] != 2:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise DataError(f"'{key}' is {found}; two numbers are needed for each picture, such as [512, 512]")
    return values.float()
