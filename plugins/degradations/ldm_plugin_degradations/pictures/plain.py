"""Small and grey pictures, without chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm_core.contracts import Degradation, Site
from ldm_core.errors import DataError
from ldm_plugin_degradations.config import BicubicConfig, GreyConfig


class Bicubic(Degradation):
    """Pillow's bicubic filter, whose support grows with the factor (antialiased); rounded to levels axis by axis."""

    def __init__(self, config: BicubicConfig, site: Site) -> None:
        self.config = config

    def degrade(
        self, picture: NDArray[np.uint8], size: tuple[int, int], random: np.random.Generator
    ) -> NDArray[np.uint8]:
        """See :class:`~ldm_core.contracts.Degradation`; DataError where `size` is larger than the picture."""
        require_smaller("bicubic", picture, size)
        return reduced(picture, size)


class Grey(Degradation):
    """0.299 red + 0.587 green + 0.114 blue in each channel (BT.601), reduced as by :class:`Bicubic`."""

    def __init__(self, config: GreyConfig, site: Site) -> None:
        self.config = config

    def degrade(
        self, picture: NDArray[np.uint8], size: tuple[int, int], random: np.random.Generator
    ) -> NDArray[np.uint8]:
        """See :class:`~ldm_core.contracts.Degradation`; DataError where `size` is larger than the picture."""
        require_smaller("grey", picture, size)
        if len(picture) == 1:
            return reduced(picture, size)
        bright = np.asarray(Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).convert("L"))
        return np.repeat(reduced(bright[None], size), len(picture), axis=0)


def reduced(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Uint8 (c, H, W) -> (c, *size) by Pillow's bicubic filter."""
    if picture.shape[1:] == size:
        return picture.copy()
    width_first = (size[1], size[0])
    planes = [Image.fromarray(plane).resize(width_first, Image.Resampling.BICUBIC) for plane in picture]
    return np.stack([np.asarray(plane) for plane in planes])


def require_smaller(name: str, picture: NDArray[np.uint8], size: tuple[int, int]) -> None:
    """DataError, with both sizes, if `size` is larger than the picture on an axis."""
    height, width = picture.shape[1:]
    if size[0] > height or size[1] > width:
        raise DataError(
            f"degradation '{name}': a picture of {height}x{width} was to be made {size[0]}x{size[1]} (height x width); "
            "it makes pictures smaller, not larger"
        )
