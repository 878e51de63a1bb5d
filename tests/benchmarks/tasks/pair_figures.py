"""Figures of pictures beside their originals: PSNR, SSIM, distances of features, gradient energy, and the mean over a
hole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ldm_plugin_metrics.pairs.ssim import similarity
from numpy.typing import NDArray
from task_sets import BATCH, EFFICIENTNET, features, frechet

LAYERS = ("blocks.0", "blocks.1", "blocks.2", "blocks.4")
"""Layers of EfficientNet-Lite0 whose maps are compared, at strides of 2, 4, 8 and 16, with equal weights."""


def psnr(made: NDArray[np.uint8], real: NDArray[np.uint8]) -> float:
    """The mean over pictures of 10 log10(255² / mean squared error), each at most 100 dB."""
    error = ((made.astype(np.float64) - real) ** 2).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return float(np.minimum(10 * np.log10(255**2 / error), 100.0).mean())


def ssim(made: NDArray[np.uint8], real: NDArray[np.uint8]) -> float:
    """The mean structural similarity, window 11, of the channels."""
    pairs = zip(_parts(made), _parts(real), strict=True)
    return float(torch.cat([similarity(a.double(), b.double()) for a, b in pairs]).mean())


def energy(pictures: NDArray[np.uint8]) -> float:
    """The mean square of the steps of brightness from a pixel to its right and its lower neighbour."""
    grey = pictures.astype(np.float64).mean(1)
    return float((np.diff(grey, axis=1) ** 2).mean() + (np.diff(grey, axis=2) ** 2).mean())


class FeaturePairs:
    """The distance of two pictures on maps of EfficientNet-Lite0: LPIPS' formula, without learned weights."""

    def __init__(self, weights: str, layers: Sequence[str] = LAYERS) -> None:
        from ldm_plugin_adversarial.perceptual.config import FeaturesConfig
        from ldm_plugin_adversarial.perceptual.features import FeatureDistance

        self.distance = FeatureDistance(FeaturesConfig(network=EFFICIENTNET, weights=weights, layers=tuple(layers)))

    @torch.inference_mode()
    def __call__(self, made: NDArray[np.uint8], real: NDArray[np.uint8]) -> float:
        """The mean over pictures (N, 3, H, W)."""
        pairs = zip(_parts(made), _parts(real), strict=True)
        values = [self.distance(a.float() / 127.5 - 1, b.float() / 127.5 - 1).flatten() for a, b in pairs]
        return float(torch.cat(values).mean())


def patches(pictures: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Squares of `side` pixels, side by side, of pictures (N, c, H, W): (M, c, side, side)."""
    count, channels, height, width = pictures.shape
    rows, columns = height // side, width // side
    cut = pictures[:, :, : rows * side, : columns * side].reshape(count, channels, rows, side, columns, side)
    return np.ascontiguousarray(cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side))


def distance(sees: Any, made: NDArray[np.uint8], real: NDArray[np.uint8]) -> float:
    """The Fréchet distance of two sets of pictures by the features of a network."""
    return frechet(features(sees, made), features(sees, real))


def _parts(pictures: NDArray[np.uint8]) -> list[torch.Tensor]:
    return [torch.from_numpy(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
