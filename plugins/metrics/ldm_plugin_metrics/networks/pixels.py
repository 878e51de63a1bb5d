"""Pixels in the place of a network's features."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from ldm_plugin_metrics.networks.config import NetworkConfig
from ldm_plugin_metrics.networks.network import Network

SIDE = 32
"""The side of pictures unless the config says one."""


class Pixels(Network):
    """Levels from 0 to 255 of pictures scaled whole to the config's `size`, else to 32 pixels a side, antialiased.

    They are divided by the root of their number, so that the distance of two pictures is the root of the mean squared
    difference of levels.
    """

    main = "features"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.side, self.resize = config.size or SIDE, config.resize
        self.widths = {"features": 3 * self.side**2}
        self.title = f"pixels {self.side}"
        self.source = f"levels, {self.resize} {self.side} antialiased"
        self.freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W), uint8 -> ``features`` (B, 3 side²)."""
        x = images.float()
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, size=(self.side, self.side), mode=self.resize, antialias=True).clamp(0, 255)
        return {"features": x.flatten(1) / math.sqrt(x[0].numel())}
