"""Whole pictures of any size for a model that enlarges small ones: padded to what it takes, and cut back. No torch."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.data import images
from ldm_core.data.fit_notes import Size, multiple_of
from ldm_core.data.inputs.forms import geometries, taken_sizes
from ldm_core.errors import DataError

_MOST_PIXELS = 1 << 16
"""The longest side of a picture."""


def picture_key(recipe: Any) -> str:
    """The key of the picture that the model of `recipe` enlarges; "" of a model that enlarges none, or several."""
    read, kinds = {key for part in recipe.conditioners for key in part.config.reads}, geometries(recipe)
    found = [key for key in taken_sizes(recipe) if key in read and kinds.get(key) == "image" and _factor(recipe, key)]
    return found[0] if len(found) == 1 else ""


def enlarges(recipe: Any, row: Any) -> bool:
    """True if the picture among the inputs `row` is neither of the small size that the model takes nor of its samples',
    so that to be used at all it must be enlarged whole, or fitted. No other input may have pixels."""
    key, kinds = picture_key(recipe), geometries(recipe)
    if not key or any(kinds.get(other) in ("image", "map") for other in row if other != key):
        return False
    shape = np.shape(row.get(key))
    return len(shape) == 3 and shape[1:] not in (taken_sizes(recipe)[key], tuple(recipe.image_size))


def _factor(recipe: Any, key: str) -> int:
    """How many times larger a sample is than its small picture; 0 if no whole number, the same of both sides."""
    small = taken_sizes(recipe)[key]
    factors = {side // few for side, few in zip(recipe.image_size, small, strict=True) if side % few == 0}
    exact = all(side % few == 0 for side, few in zip(recipe.image_size, small, strict=True))
    return factors.pop() if exact and len(factors) == 1 else 0


@attrs.frozen
class Enlargement:
    """The way of a picture of the size `given` through a model: padded to `small`, sampled `factor` times as large, and
    cut to `factor` times its size. Sizes are (h, w)."""

    given: Size
    small: Size
    factor: int

    @classmethod
    def of(cls, recipe: Any, given: Size) -> Enlargement:
        """The padding up to the small picture of training, and to the multiple that the networks need.

        DataError for a result with a side beyond 65,536 pixels.
        """
        key = picture_key(recipe)
        factor, least = _factor(recipe, key), taken_sizes(recipe)[key]
        step = multiple_of(recipe) // math.gcd(multiple_of(recipe), factor)
        high, wide = (-(-max(side, few) // step) * step for side, few in zip(given, least, strict=True))
        made = cls(given, (high, wide), factor)
        if max(made.size) > _MOST_PIXELS:
            raise DataError(
                f"'{key}' of {given[0]}x{given[1]} (height x width) would be {made.size[0]}x{made.size[1]}, enlarged "
                f"{factor} times; a picture has at most {_MOST_PIXELS:,} pixels a side"
            )
        return made

    @property
    def size(self) -> Size:
        """The size of the samples."""
        return self.small[0] * self.factor, self.small[1] * self.factor

    @property
    def result(self) -> Size:
        """The size of the results."""
        return self.given[0] * self.factor, self.given[1] * self.factor

    def padded(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture (c, *given) with its mirror image below and to the right, (c, *small)."""
        more = [(0, small - side) for small, side in zip(self.small, self.given, strict=True)]
        return np.pad(picture, [(0, 0), *more], mode="symmetric")

    def cut(self, sample: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The result (c, *result) in a sample (c, *size)."""
        return np.ascontiguousarray(sample[:, : self.result[0], : self.result[1]])

    def __str__(self) -> str:
        given, result = ("x".join(map(str, size)) for size in (self.given, self.result))
        return f"{given} enlarged whole, {self.factor} times, to {result} (height x width)"


def whole_picture(value: Any, channels: int, name: str) -> NDArray[np.uint8]:
    """A PIL image, upright and without transparency, or an array as uint8 (channels, H, W); DataError for others."""
    if hasattr(value, "getbands"):
        value = value.copy()
        images.turn_upright(value)
        plain = images.flat(value)
        value = images.to_planes(plain if plain.mode in ("L", "RGB") else plain.convert("RGB"))
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"{name}: expected a PIL image or uint8 values (channels, height, width) with 1 or 3 channels, got "
            f"{array.dtype} {array.shape}"
        )
    return images.to_channels(array, channels)
