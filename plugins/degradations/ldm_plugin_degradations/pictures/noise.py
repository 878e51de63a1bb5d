"""Noise on pictures (H, W, c) of numbers in [0, 1]: Gaussian, of photons, of JPEG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float64]
_GREY = np.array([0.299, 0.587, 0.114])


def gaussian_noise(picture: Plane, level: float, random: np.random.Generator) -> Plane:
    """Add noise of deviation `level` (1 = the whole range): in two of five pictures apart in each channel, in two the
    same in all, in one tied by a random covariance."""
    shape, channels = picture.shape, picture.shape[2]
    kind = random.random()
    if kind < 0.4:
        noise = random.standard_normal(shape) * level
    elif kind < 0.8 or channels == 1:
        noise = random.standard_normal((*shape[:2], 1)) * level
    else:
        axes, _ = np.linalg.qr(random.random((channels, channels)))
        tied = axes * (np.sqrt(random.random(channels)) * level)  # times its own transpose: a random covariance
        noise = random.standard_normal(shape) @ tied.T
    return np.clip(picture + noise, 0, 1)


def shot_noise(picture: Plane, random: np.random.Generator) -> Plane:
    """Count photons, 100 to 10,000 at white; in half of the pictures of their brightness alone."""
    photons = 10 ** random.uniform(2, 4)
    if random.random() < 0.5 or picture.shape[2] == 1:
        return np.clip(random.poisson(np.clip(picture, 0, 1) * photons) / photons, 0, 1)
    bright = np.clip(picture, 0, 1) @ _GREY
    return np.clip(picture + (random.poisson(bright * photons) / photons - bright)[..., None], 0, 1)


def compressed(picture: Plane, quality: int) -> Plane:
    """Through a JPEG of this quality."""
    return unpacked(compressed_levels(levels(picture), quality))


def compressed_levels(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Uint8 (H, W, c) through a JPEG of this quality."""
    grey = picture.shape[2] == 1
    packed = io.BytesIO()
    Image.fromarray(picture[..., 0] if grey else picture).save(packed, "JPEG", quality=quality)
    found = np.asarray(Image.open(packed))
    return found[..., None] if grey else found


def levels(picture: Plane) -> NDArray[np.uint8]:
    """Numbers in [0, 1] -> uint8, rounded."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def unpacked(picture: NDArray[np.uint8]) -> Plane:
    """Uint8 -> numbers in [0, 1]."""
    return picture / 255.0
