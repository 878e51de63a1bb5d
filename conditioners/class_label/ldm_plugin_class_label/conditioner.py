"""The class conditioner: label -> embedding -> cross-attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, LatentSpec, Site
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_class_label.config import ClassLabelConfig


class ClassLabelConditioner(Conditioner, nn.Module):
    """Labels (B,) integers in [0, classes) -> crossattn (B, 1, width).

    The null is the table's last row, or, without a null class, the condition itself. ConfigError if the number of
    classes is not known at construction.
    """

    def __init__(self, config: ClassLabelConfig, site: Site) -> None:
        super().__init__()
        if config.classes < 1:
            raise ConfigError(
                f"class_label: the number of classes is not known; set classes, or give data that has '{config.key}'"
            )
        self.config = config
        self.reads = config.reads
        self.spec = config.spec(site.latent or LatentSpec(channels=site.channels))
        self.class_tables = {"embedding.weight": (config.key, 0)}
        self.embedding = nn.Embedding(config.classes + config.null_class, config.width)

    def encode(self, batch: Batch) -> Cond:
        """Embed the labels: a tensor (B,) or B integers. DataError naming the index and value of a wrong one."""
        labels = self._labels(batch[self.config.key]).to(self.embedding.weight.device)
        return Cond(crossattn=self.embedding(labels)[:, None])  # (B,1,width)

    def null(self, like: Cond) -> Cond:
        """The null class for each row and token of `like`; `like` itself if there is none."""
        if not self.config.null_class:
            return like
        shape = like.crossattn.shape[:2] if like.crossattn is not None else (0, 1)
        labels = torch.full(shape, self.config.classes, device=self.embedding.weight.device)
        return Cond(crossattn=self.embedding(labels))

    def _labels(self, value: Any) -> Tensor:
        key, classes = self.config.key, self.config.classes
        if not isinstance(value, Tensor):
            whole = [hasattr(v, "__index__") and not isinstance(v, bool) for v in value]
            if not all(whole):
                i = whole.index(False)
                raise DataError(f"'{key}' of example {i} is {value[i]!r}, an integer in [0, {classes - 1}] is needed")
            value = torch.tensor([int(v) for v in value], dtype=torch.long)
        if value.dim() != 1 or value.is_floating_point() or value.dtype == torch.bool:
            raise DataError(
                f"'{key}' has shape {tuple(value.shape)} and type {value.dtype}; one integer an example is needed"
            )
        wrong = (value < 0) | (value >= classes)
        if bool(wrong.any()):
            i = int(wrong.nonzero()[0])
            raise DataError(
                f"'{key}' of example {i} is {int(value[i])}; allowed: 0 to {classes - 1} ({classes} classes)"
            )
        return value.long()
