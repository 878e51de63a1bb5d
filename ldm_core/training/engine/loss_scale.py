"""The loss scale of fp16: scaling the loss keeps small gradients within the range of half precision.

It is the trainer's own: DeepSpeed's fp16 casts the weights themselves, and its ``torch_autocast`` scales without
unscaling before the norm is clipped and lets each process adapt by its own part of the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MAXIMUM = 2.0**24


class LossScale:
    """A factor of the loss: halved after an overflow of gradients, doubled after `window` good steps (or `static`).

    The defaults are those of mixed-precision training as DeepSpeed and torch have it: 2**16 at first, and never
    below `minimum`.
    """

    def __init__(
        self, *, initial: float = 2.0**16, window: int = 1000, minimum: float = 1.0, static: bool = False
    ) -> None:
        self.value, self.window, self.minimum, self.static = initial, window, minimum, static
        self.good = 0

    @classmethod
    def of(cls, raw: Mapping[str, float]) -> LossScale:
        """From DeepSpeed's words: ``loss_scale`` (0 = adapts), ``initial_scale_power``, ``loss_scale_window``."""
        fixed = raw.get("loss_scale", 0.0)
        return cls(
            initial=fixed or 2.0 ** raw.get("initial_scale_power", 16.0),
            window=int(raw.get("loss_scale_window", 1000)),
            minimum=raw.get("min_loss_scale", 1.0),
            static=bool(fixed),
        )

    def update(self, *, finite: bool) -> None:
        """After a step: whether its gradients were finite, on all processes."""
        if self.static:
            return
        if not finite:
            self.value, self.good = max(self.value / 2, self.minimum), 0
            return
        self.good += 1
        if self.good >= self.window:
            self.value, self.good = min(self.value * 2, MAXIMUM), 0

    def state(self) -> Tensor:
        """Give the state for a resumed run, (2,) float64: the scale, and the good steps since it changed."""
        return torch.tensor([self.value, float(self.good)], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """Go on from :meth:`state`."""
        self.value, self.good = float(state[0]), int(state[1])
