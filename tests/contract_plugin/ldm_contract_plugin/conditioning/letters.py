"""A conditioner of the caption's letters, for recipes that have it several times."""

from __future__ import annotations

import torch
from torch import nn

from ldm_contract_plugin.conditioning.config import LettersConfig
from ldm_core import Conditioner
from ldm_core.contracts import Batch, Cond, LatentSpec, Site, Tokens


class Letters(Conditioner, nn.Module):
    """Captions -> tokens (B, longest, width) and their mask, or always `length` of them without one."""

    def __init__(self, config: LettersConfig, site: Site) -> None:
        super().__init__()
        self.config, self.reads = config, config.reads
        self.spec = config.spec(site.latent or LatentSpec(4))
        self.table = nn.Embedding(256, config.width)
        self.empty = nn.Parameter(0.02 * torch.randn(config.width))

    def encode(self, batch: Batch) -> Cond:
        """A token a letter; an empty caption is one blank."""
        device = self.empty.device
        texts = [text.encode()[: self.config.length] or b" " for text in batch["caption"]]
        longest = self.config.length if self.config.padded else max(map(len, texts))
        codes = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
        mask = torch.tensor([[i < len(text) for i in range(longest)] for text in texts], device=device)
        return self._bundle(Tokens(self.table(codes), None if self.config.padded else mask))

    def null(self, like: Cond) -> Cond:
        """One learned token in every place."""
        tokens = like.tokens[self.config.role] if self.config.role else Tokens(_values(like), like.crossattn_mask)
        return self._bundle(tokens._replace(values=self.empty.to(tokens.values).expand_as(tokens.values)))

    def _bundle(self, tokens: Tokens) -> Cond:
        if self.config.role:
            return Cond(tokens={self.config.role: tokens})
        return Cond(crossattn=tokens.values, crossattn_mask=tokens.mask)


def _values(cond: Cond) -> torch.Tensor:
    assert cond.crossattn is not None
    return cond.crossattn
