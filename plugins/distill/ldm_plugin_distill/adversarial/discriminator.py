"""The discriminator of an adversarial distillation: small networks on the features of a frozen one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_SLOPE = 0.2


class Discriminator(nn.Module):
    """Features (B, N, C) of each layer -> logits (B, M), positive for data: one of every place of every layer.

    Three linear layers a head see one place at a time, after a normalisation without weights. As no batch is looked
    at, an example's logits are its own.
    """

    def __init__(self, widths: Sequence[int], width: int, rate: float) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(channels, elementwise_affine=False),
                _Linear(channels, width, rate),
                nn.LeakyReLU(_SLOPE),
                _Linear(width, width, rate),
                nn.LeakyReLU(_SLOPE),
                _Linear(width, 1, rate),
            )
            for channels in widths
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """See the class."""
        return torch.cat([head(each)[..., 0] for head, each in zip(self.heads, features, strict=True)], 1)

    def opinion(self, features: Sequence[Tensor]) -> Tensor:
        """The same logits; gradients reach the features and leave the weights."""
        layers = [layer for layer in self.modules() if isinstance(layer, _Linear)]
        for layer in layers:
            layer.fixed = True
        try:
            logits: Tensor = self(features)
        finally:
            for layer in layers:
                layer.fixed = False
        return logits


class _Linear(nn.Module):
    """A linear layer that learns `rate` times as fast as another at the same learning rate, under Adam or
    any optimizer with steps of the learning rate's size: it keeps its weights divided by `rate`.

    While it is `fixed`, no gradient reaches its weights. They are detached in the call itself, as an engine that keeps
    pieces of weights puts them together for the call alone.
    """

    def __init__(self, inputs: int, outputs: int, rate: float) -> None:
        super().__init__()
        self._rate, self.fixed = rate, False
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / (rate * inputs**0.5))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (p.detach() if self.fixed else p for p in (self.weight, self.bias))
        return nn.functional.linear(x, weight * self._rate, bias * self._rate)
