"""Resampling by weights along each axis, of pictures of numbers (H, W, c)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Filter = Literal["linear", "cubic", "area", "bicubic"]
Plane = NDArray[np.float64]


def resample(picture: Plane, size: tuple[int, int], filter: Filter) -> Plane:
    """(H, W, c) -> (*size, c). ``bicubic`` is antialiased, as Pillow's (a = -1/2, its support grows with the factor);
    ``linear`` and ``cubic`` (a = -3/4) look at the nearest 2 and 4 pixels alone; ``area`` is the mean over a
    pixel. Pixels beyond the edge are left out of the weights of ``bicubic``; the others repeat the edge."""
    for axis, length in enumerate(size):
        if picture.shape[axis] != length:
            picture = along(picture, _weights(picture.shape[axis], length, filter), axis)
    return picture


def along(picture: Plane, weights: Plane, axis: int) -> Plane:
    """(H, W, c) times weights (out, in) along one axis."""
    return np.moveaxis(np.tensordot(weights, picture, axes=(1, axis)), 0, axis)


def strided(picture: Plane, size: tuple[int, int], sigma: float, radius: int = 12) -> Plane:
    """Blur (H, W, c) by a Gaussian of `sigma` pixels, cut off at `radius`, and take the centres of `size` pixels."""
    for axis, length in enumerate(size):
        whole = picture.shape[axis]
        centres = (np.arange(length) + 0.5) * whole / length - 0.5
        places = np.rint(centres)[:, None] + np.arange(-radius, radius + 1)
        weights = np.exp(-((places - centres[:, None]) ** 2) / (2 * sigma**2))
        picture = along(picture, _gathered(places, weights, whole), axis)
    return picture


@lru_cache(maxsize=64)
def _weights(whole: int, length: int, filter: Filter) -> Plane:
    factor = whole / length
    if filter == "area" and factor > 1:
        edges = np.arange(length + 1) * factor
        pixels = np.arange(whole)
        shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.clip(shared, 0, None) / factor
    scale = max(1.0, factor) if filter == "bicubic" else 1.0
    kernel, reach = _KERNELS[filter]
    centres = (np.arange(length) + 0.5) * factor
    first = np.floor(centres - reach * scale)
    places = first[:, None] + np.arange(int(np.ceil(2 * reach * scale)) + 2)
    weights = kernel((places + 0.5 - centres[:, None]) / scale)
    if filter == "bicubic":
        weights = np.where((places >= 0) & (places < whole), weights, 0.0)
    return _gathered(places, weights, whole)


def _gathered(places: Plane, weights: Plane, whole: int) -> Plane:
    """Weights of places (out, n) -> (out, whole), each row's sum 1; a place beyond the edge is the edge."""
    out = np.zeros((len(places), whole))
    rows = np.broadcast_to(np.arange(len(places))[:, None], places.shape)
    np.add.at(out, (rows, np.clip(places, 0, whole - 1).astype(np.int64)), weights)
    return out / out.sum(1, keepdims=True)


def _linear(x: Plane) -> Plane:
    return np.clip(1 - np.abs(x), 0, None)


def _cubic(a: float) -> Callable[[Plane], Plane]:
    def kernel(x: Plane) -> Plane:
        x = np.abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return kernel


_KERNELS: dict[Filter, tuple[Callable[[Plane], Plane], int]] = {
    "linear": (_linear, 1),
    "area": (_linear, 1),  # enlarging
    "cubic": (_cubic(-0.75), 2),
    "bicubic": (_cubic(-0.5), 2),
}
