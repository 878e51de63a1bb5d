"""Blur by a Gaussian, round or long and turned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float64]


def gaussian(side: int, variances: tuple[float, float], angle: float = 0.0) -> Plane:
    """A kernel (side, side) of sum 1 with these variances, in square pixels, along `angle` and across it."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = turn @ np.diag(1 / np.asarray(variances)) @ turn.T
    places = np.arange(side) - (side - 1) / 2
    grid = np.stack(np.meshgrid(places, places), -1)
    kernel: Plane = np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", grid, inverse, grid))
    return kernel / kernel.sum()


def blurred(picture: Plane, kernel: Plane) -> Plane:
    """(H, W, c), mirrored at its edges, by a kernel; a kernel larger than twice the picture is cut at its middle."""
    height, width = picture.shape[:2]
    kernel = _cut(_cut(kernel, 0, 2 * height - 1), 1, 2 * width - 1)
    before = [(side - 1) // 2 for side in kernel.shape]
    around = [(low, side - 1 - low) for low, side in zip(before, kernel.shape, strict=True)]
    wide = np.pad(picture, (*around, (0, 0)), mode="symmetric")
    shape = wide.shape[:2]
    spectrum = np.fft.rfft2(wide, axes=(0, 1)) * np.fft.rfft2(kernel, shape)[..., None]
    whole = np.fft.irfft2(spectrum, shape, axes=(0, 1))
    return whole[kernel.shape[0] - 1 :, kernel.shape[1] - 1 :]


def _cut(kernel: Plane, axis: int, most: int) -> Plane:
    if kernel.shape[axis] <= most:
        return kernel
    first = (kernel.shape[axis] - most) // 2
    cut = np.take(kernel, range(first, first + most), axis)
    return cut / cut.sum()
