"""A conditioner with two sets of tokens of different widths and a pooled vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm_contract_plugin.config import SECOND_TOKENS, TwoSetConfig
from ldm_core import Conditioner
from ldm_core.contracts import Batch, LatentSpec, Site
from ldm_core.contracts.conditioning import Cond


class TwoSet(Conditioner, nn.Module):
    """Letters of the caption (B, longest, width), tokens of the class (B, 2, second_width), both pooled (B, vector)."""

    def __init__(self, config: TwoSetConfig, site: Site) -> None:
        super().__init__()
        self.reads = config.reads
        self.spec = config.spec(site.latent or LatentSpec(4))
        self.length = config.length
        self.letters = nn.Embedding(256, config.width)
        self.of_class = nn.Embedding(max(config.classes, 1), 2 * config.second_width)
        self.pool = nn.Linear(config.width + config.second_width, config.vector)
        self.no_letter = nn.Parameter(0.02 * torch.randn(config.width))
        self.no_class = nn.Parameter(0.02 * torch.randn(config.second_width))
        self.no_vector = nn.Parameter(0.02 * torch.randn(config.vector))

    def encode(self, batch: Batch) -> Cond:
        """Both sets, the mask of the first, and the vector."""
        device = self.no_letter.device
        texts = [text.encode()[: self.length] or b" " for text in batch["caption"]]
        longest = max(len(text) for text in texts)
        codes = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
        mask = torch.tensor([[i < len(text) for i in range(longest)] for text in texts], device=device)
        first = self.letters(codes)
        labels = torch.as_tensor(batch["class_label"], device=device).long()
        second = self.of_class(labels).unflatten(1, (2, -1))
        mean = (first * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        vector = self.pool(torch.cat([mean, second.mean(1)], 1))
        return Cond(crossattn=first, crossattn_mask=mask, vector=vector, extras={SECOND_TOKENS: second})

    def null(self, like: Cond) -> Cond:
        """Learned values in every place of `like`."""
        assert like.crossattn is not None and like.vector is not None
        second = like.extras[SECOND_TOKENS]
        return like._replace(
            crossattn=_fill(self.no_letter, like.crossattn),
            vector=_fill(self.no_vector, like.vector),
            extras={SECOND_TOKENS: _fill(self.no_class, second)},
        )


def _fill(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like).expand_as(like)
