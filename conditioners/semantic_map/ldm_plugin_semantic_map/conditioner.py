"""The label-map conditioner: labels -> share of each class in every latent cell -> 1×1 convolution -> concat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, Site
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_semantic_map.config import SemanticMapConfig


class SemanticMapConditioner(Conditioner, nn.Module):
    """Label maps (B, H, W) integers -> concat (B, channels, h, w), h and w the latents'.

    The paper halves the one-hot map bilinearly until it has the latents' size. For its power-of-two strides this is the
    mean of each cell, counted here straight from the labels: the same numbers bit for bit, without the one-hot map at
    full size. The mapping has no bias, so unlabeled pixels give zeros, and so does the null, a map without labels.
    ConfigError if classes or latents are not known at construction.
    """

    def __init__(self, config: SemanticMapConfig, site: Site) -> None:
        super().__init__()
        if config.classes < 1:
            raise ConfigError(
                f"semantic_map: the number of classes is not known; set classes, or give data that has '{config.key}'"
            )
        if site.latent is None:
            raise ConfigError("semantic_map: the first stage's latents are not known; build it behind a first stage")
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent)
        self.size = (site.size[0], site.size[1])
        self.grid = site.latent.shape(site.size)[1:]
        self.class_tables = {"channel_mapper.weight": (config.key, 1)}
        self.channel_mapper = nn.Conv2d(config.classes, config.channels, 1, bias=False)

    def encode(self, batch: Batch) -> Cond:
        """Encode label maps: a tensor (B, H, W) or B arrays (H, W).

        A map of another size than the images is resized, nearest pixel. DataError for a wrong shape, type or label,
        naming the example, the value and the allowed ones.
        """
        maps = batch[self.config.key]
        if isinstance(maps, Tensor) and maps.dim() == 3:
            labels = self._resized(self._checked(maps, None))
        else:
            rows = [self._resized(self._checked(m, i)) for i, m in enumerate(maps)]
            labels = torch.stack(rows) if rows else torch.empty(0, *self.size, dtype=torch.long)
        weight = self.channel_mapper.weight
        shares = self._shares(labels.to(weight.device)).to(weight.dtype)
        # Autocast may lower the convolution; null has the weight's precision, so has this.
        return Cond(concat=self.channel_mapper(shares).to(weight.dtype))

    def null(self, like: Cond) -> Cond:
        """Zeros, a map without labels; `like` itself if the config forbids dropping it."""
        return like.map(torch.zeros_like) if self.config.droppable else like

    def _checked(self, value: Any, index: int | None) -> Tensor:
        """One map (H, W), or with `index` None a stack of them, as int64; unlabeled pixels become `classes`."""
        key, classes, unlabeled = self.config.key, self.config.classes, self.config.unlabeled
        labels = torch.as_tensor(value)
        place = "" if index is None else f" of example {index}"
        if labels.dim() != (3 if index is None else 2) or labels.is_floating_point():
            raise DataError(
                f"'{key}'{place} has shape {tuple(labels.shape)} and type {labels.dtype}; "
                "integers (height, width) are needed"
            )
        labels = labels.long()
        wrong = ((labels < 0) | (labels >= classes)) & (labels != unlabeled)
        if bool(wrong.any()):
            where = wrong.nonzero()[0].tolist()
            example = where[0] if index is None else index
            value = int(labels[tuple(where)])
            raise DataError(
                f"'{key}' of example {example} has the label {value}; allowed: 0 to {classes - 1} ({classes} classes) "
                f"and {unlabeled} for unlabeled"
            )
        if unlabeled < classes:  # then it is a class like any other
            return labels
        return labels.masked_fill(labels == unlabeled, classes)

    def _resized(self, labels: Tensor) -> Tensor:
        """(..., H, W) -> (..., *size) by the nearest pixel's label."""
        for axis, wanted in zip((-2, -1), self.size, strict=True):
            have = labels.shape[axis]
            if have != wanted:
                picked = (torch.arange(wanted, device=labels.device) + 0.5) * (have / wanted)
                labels = labels.index_select(axis, picked.long().clamp(max=have - 1))
        return labels

    def _shares(self, labels: Tensor) -> Tensor:
        """Labels (B, H, W) -> the share of each class in every latent cell (B, classes, h, w), float32."""
        h, w = self.grid
        cells = labels.unflatten(2, (w, -1)).unflatten(1, (h, -1))  # (B, h, rows, w, columns)
        cells = cells.permute(0, 2, 4, 1, 3).reshape(len(labels), -1, h * w)  # (B, pixels of a cell, h·w)
        counts = torch.zeros(len(labels), self.config.classes + 1, h * w, device=labels.device)
        # Sums of ones, so that the order in which a device adds them does not matter.
        counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=counts.dtype))
        return (counts[:, :-1] / cells.shape[1]).unflatten(2, (h, w))
