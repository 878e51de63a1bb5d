"""The averaged weights that a model is sampled with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average of a module's trainable parameters, by name, in float32.

    Update n (from 1) uses decay ``min(decay, (1 + n) / (10 + n))``, the published warm-up. A trainable conditioner is
    part of the module, so its weights are averaged too.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._sources = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.shadow: dict[str, Tensor] = {n: p.detach().float().clone() for n, p in self._sources.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of one more step in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = [p.detach().float() for p in self._sources.values()]
        torch._foreach_lerp_(list(self.shadow.values()), current, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from saved averages."""
        for name, value in self.shadow.items():
            value.copy_(tensors[name])
        self.updates = updates

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's state dict with averaged weights in place of its own."""
        return {k: self.shadow.get(k, v) for k, v in module.state_dict().items()}
