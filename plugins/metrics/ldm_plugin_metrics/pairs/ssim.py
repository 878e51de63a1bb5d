"""The structural similarity."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm_core.contracts import Pictures, Site
from ldm_plugin_metrics.means import MeanMetric
from ldm_plugin_metrics.pairs.config import SSIM_SIDE, SSIMConfig
from ldm_plugin_metrics.pairs.pairs import pair

SIGMA = 1.5
_STEADY = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class SSIM(MeanMetric):
    """The mean structural similarity of 8-bit pictures, averaged over pictures: from -1 to 1, 1 for equal ones.

    Means, variances and covariance are weighted by a Gaussian window of 11 x 11 pixels and standard deviation 1.5, not
    corrected for the sample's size; K1 = 0.01, K2 = 0.03, L = 255. A channel is a picture by itself, and a picture has
    the mean of its channels. The window lies whole in the picture: nothing is padded, and
    pictures with a side below 11 pixels are refused, since another window would give another measure. Source: Wang et
    al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", equation 13.
    """

    name = "ssim"
    source = "SSIM of 8-bit pictures, window 11, sigma 1.5, mean of channels"

    def __init__(self, config: SSIMConfig, site: Site) -> None:
        self.config = config

    def measure(self, pictures: Pictures) -> dict[str, NDArray[np.float64]]:
        """One number a picture."""
        x, y = (each.double() for each in pair(pictures, self.name, SSIM_SIDE))
        return {"ssim": similarity(x, y).cpu().numpy()}


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """Pictures (B, c, H, W) of levels 0 to 255, float64 -> their mean structural similarity (B,)."""
    # A CPU takes channel by channel, which its cache holds: ten times as fast.
    count = 1 if x.device.type == "cpu" else len(x) * x.shape[1]
    channels = zip(*(each.flatten(0, 1).split(count) for each in (x, y)), strict=True)
    found = torch.cat([_similarity(a, b) for a, b in channels]).view(x.shape[:2])
    # around the first, so that grey in three channels is grey to the bit
    return found[:, 0] + (found - found[:, :1]).sum(dim=1) / x.shape[1]


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    maps = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, square_x, square_y, product = _window(_window(maps, 2), 3)  # (N, H - 10, W - 10)
    c1, c2 = _STEADY
    both = mean_x * mean_y
    squares = mean_x.square() + mean_y.square()
    likeness = (2 * both + c1) * (2 * (product - both) + c2)
    return (likeness / ((squares + c1) * (square_x + square_y - squares + c2))).mean(dim=(1, 2))


def _window(maps: Tensor, axis: int) -> Tensor:
    """The window's weighted mean along an axis, whole windows alone."""
    # Slices and no convolution, whose rounding depends on the size of the batch.
    weights = [math.exp(-0.5 * ((i - SSIM_SIDE // 2) / SIGMA) ** 2) for i in range(SSIM_SIDE)]
    places = maps.shape[axis] - SSIM_SIDE + 1
    total = torch.zeros_like(maps.narrow(axis, 0, places))
    for i, weight in enumerate(weights):
        total.add_(maps.narrow(axis, i, places), alpha=weight / sum(weights))
    return total
