"""An enlarged picture, held to the small one, and sharper pictures. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldm_core.data.images import to_channels

LEVELS = 5
"""Scales of the enlarged picture's own: of 1, 2, 4, 8 and 16 pixels."""

ROUNDS = 10
"""Rounds of a back-projection."""

_REACH = 4
"""Pixels to each side that a blur sees: 4 standard deviations."""


def wavelet_fixed(picture: NDArray[np.uint8], given: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`picture` (c, H, W) with its coarse part replaced by that of `given` (c, h, w), enlarged to it (bicubic).

    The wavelet colour correction of Wang et al. 2023 (StableSR, arXiv 2305.07015): the coarse part is the rest
    of :data:`LEVELS` scales of an undecimated wavelet transform (kernel 1, 2, 1, spread by 1, 2, 4, ... pixels), a blur
    of about 13 pixels of standard deviation. Sampling may drift there, from window to window too, and the given picture
    is right; the finer part, missing from it, is kept as it is.
    """
    from PIL import Image

    height, width = picture.shape[1:]
    out = np.empty_like(picture)
    for one, plane, target in zip(picture, to_channels(given, len(picture)), out, strict=True):
        enlarged = Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)
        change = np.asarray(enlarged, dtype=np.float32) - one  # the transform is linear: one for both coarse parts
        target[:] = np.clip(np.rint(one + _coarse(change)), 0, 255)
    return out


def back_projected(picture: NDArray[np.uint8], given: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`picture` (c, H, W) with a change: made small again (bicubic), it is `given` (c, h, w).

    Iterative back-projection (Irani and Peleg, "Improving resolution by image registration", 1991): the small picture's
    error is enlarged and added, :data:`ROUNDS` times. It is for pictures that were made small in this way.
    """
    out = np.empty_like(picture)
    for one, plane, target in zip(picture, to_channels(given, len(picture)), out, strict=True):
        made = one.astype(np.float32)
        for _ in range(ROUNDS):
            made = made + _resized(plane - _resized(made, plane.shape), made.shape)
        target[:] = np.clip(np.rint(made), 0, 255)
    return out


def sharpened(picture: NDArray[np.uint8], amount: float) -> NDArray[np.uint8]:
    """`picture` (c, H, W), and `amount` times what a Gaussian blur (standard deviation 1 pixel) takes away from it: an
    unsharp mask. Values beyond a border are those at it."""
    values = np.exp(-0.5 * np.arange(-_REACH, _REACH + 1, dtype=np.float64) ** 2)
    kernel, coarse = (values / values.sum()).astype(np.float32), picture.astype(np.float32)
    for axis in (1, 2):
        places = np.arange(picture.shape[axis])
        moved = (coarse.take(np.clip(places + step, 0, places[-1]), axis) for step in range(-_REACH, _REACH + 1))
        coarse = sum((share * plane for share, plane in zip(kernel, moved, strict=True)), np.zeros_like(coarse))
    return np.clip(np.rint(picture + np.float32(amount) * (picture - coarse)), 0, 255).astype(np.uint8)


def _resized(plane: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    from PIL import Image

    height, width = shape
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _coarse(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """The coarse part of (H, W); values beyond a border are those at it."""
    for level in range(LEVELS):
        for axis in (0, 1):
            places, step = np.arange(plane.shape[axis]), 1 << level
            before, after = np.maximum(places - step, 0), np.minimum(places + step, places[-1])
            plane = plane * np.float32(0.5) + (plane.take(before, axis) + plane.take(after, axis)) * np.float32(0.25)
    return plane
