"""A transformer encoder over a table of tokens, for conditioners that read sequences of ids. Imports torch only.

Rombach et al. 2022 (arXiv 2112.10752, section 3.3 and appendix E.2.1) train one jointly with the denoiser, on text
and on layouts. Key names and numerics are those of the published weights: pre-norm blocks, learned absolute
positions, attention of its own inner width, a final norm.

Shapes: B batch; L tokens; D width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ldm_core.nn.attention import attend
from ldm_core.nn.transformer_config import TokenTransformerConfig


class TokenPositions(nn.Module):
    """A learned vector (D) for each of `length` positions."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(length, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B,L) -> (L,D)."""
        return self.emb(torch.arange(tokens.shape[1], device=tokens.device))


class TokenAttention(nn.Module):
    """Multi-head self-attention of (B,L,D) with inner width heads · head_width, which need not be D.

    `mask` (B,1,1,L) bool: True positions are attended to; None attends to all. Scale is head_width ** -0.5.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B,heads,L,head_width)
            for projected in (self.to_q(x), self.to_k(x), self.to_v(x))
        )
        out = attend(q, k, v, mask)
        return self.to_out(out.transpose(1, 2).flatten(2))  # (B,L,D)


class TokenFeedForward(nn.Module):
    """Linear to four times the width, GELU (exact), and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Identity stands where published weights count a dropout, so that the last layer is number 2.
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU()), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TokenLayers(nn.Module):
    """`layers` pairs of attention and feed-forward, each x + f(norm(x)), on (B,L,D).

    Entry 2i of :attr:`layers` is the i-th attention with its norm, entry 2i + 1 the feed-forward with its norm.
    """

    def __init__(self, width: int, layers: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(layers):
            self.layers.append(nn.ModuleList([nn.LayerNorm(width), TokenAttention(width, heads, head_width)]))
            self.layers.append(nn.ModuleList([nn.LayerNorm(width), TokenFeedForward(width)]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for index, pair in enumerate(self.layers):
            norm, block = cast(nn.ModuleList, pair)
            x = x + (block(norm(x), mask) if index % 2 == 0 else block(norm(x)))
        return x


class TokenTransformer(nn.Module):
    """Token ids (B,L), L <= `length`, -> a vector for each (B,L,D): embedding, positions, layers, final norm.

    A `length` of 0 does without positions, for any L: equal tokens then get equal vectors in every order. Without
    layers too it is a bag of tokens: each vector tells of its own token alone.

    `heads`: the number of attention heads, and the width of each. `logits` adds the vocabulary head of published
    weights. Nothing here uses it and it gets no gradient; leave it out when training from scratch. `embedding_std` is
    that of the fresh tables (published: 0.02; a short training tells words apart sooner with a larger one, as the
    layers add little to their input).
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        layers: int,
        length: int,
        *,
        heads: tuple[int, int] = (8, 64),
        logits: bool = False,
        embedding_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, width)
        self.pos_emb = TokenPositions(width, length) if length else None
        self.attn_layers = TokenLayers(width, layers, *heads)
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, vocab_size) if logits else None
        nn.init.normal_(self.token_emb.weight, std=embedding_std)
        if self.pos_emb is not None:
            nn.init.normal_(self.pos_emb.emb.weight, std=embedding_std)

    @classmethod
    def of(cls, config: TokenTransformerConfig, length: int) -> TokenTransformer:
        """The transformer of a config, over up to `length` tokens; 0: without positions."""
        c = config
        heads = (c.heads, c.head_width)
        return cls(c.vocab_size, c.width, c.layers, length, heads=heads, logits=c.logits, embedding_std=c.embedding_std)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """`tokens` (B,L) integers; `mask` (B,L) bool, True positions are attended to, None = all."""
        x = self.token_emb(tokens)  # (B,L,D)
        if self.pos_emb is not None:
            x = x + self.pos_emb(tokens)
        return self.norm(self.attn_layers(x, None if mask is None else mask[:, None, None, :]))
