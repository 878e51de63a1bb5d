"""Whole pictures of any size for a model of small ones: padded to its sizes, and cut back. No torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.data import images
from ldm_core.data.fit_notes import Size, multiple_of
from ldm_core.data.inputs.forms import geometries, taken_sizes
from ldm_core.errors import DataError
from ldm_core.recipe.recipe import Recipe

_MOST_PIXELS = 1 << 16
"""The longest side of a picture."""


@attrs.frozen
class Enlarger:
    """A model for enlarging pictures, by its recipe: samples of `size` are `factor` times as large as the small
    picture under `key`, and sides of small pictures have multiples of `step`. `pixels`: all keys of pictures and maps.
    """

    key: str
    size: Size
    factor: int
    step: int
    pixels: frozenset[str]

    @classmethod
    def of(cls, recipe: Recipe) -> Enlarger | None:
        """None for a model without a picture to enlarge, or with several, or with no whole factor."""
        read, kinds = {key for part in recipe.conditioners for key in part.config.reads}, geometries(recipe)
        pixels = frozenset(key for key, kind in kinds.items() if kind in ("image", "map"))
        small = {k: size for k, size in taken_sizes(recipe).items() if k in read and kinds.get(k) == "image"}
        if len(small) != 1:
            return None
        ((key, (high, wide)),) = small.items()
        factor, multiple = recipe.image_size[0] // high, multiple_of(recipe)
        if (high * factor, wide * factor) != recipe.image_size:
            return None
        return cls(key, recipe.image_size, factor, multiple // math.gcd(multiple, factor), pixels)

    @property
    def small(self) -> Size:
        """The size of small pictures in training."""
        return self.size[0] // self.factor, self.size[1] // self.factor

    def wants(self, row: Mapping[str, object]) -> bool:
        """True if the picture among the inputs is neither of the small size nor of the samples': it is enlarged whole,
        or else fitted. No other input may have pixels."""
        shape = np.asarray(row[self.key]).shape if self.key in row else ()
        alone = self.pixels.isdisjoint(row.keys() - {self.key})
        return alone and len(shape) == 3 and shape[1:] not in (self.small, self.size)

    def way(self, given: Size) -> Enlargement:
        """The way of a picture: padded up to the small size of training, and to the step.

        DataError for a result with a side beyond 65,536 pixels.
        """
        sides = zip(given, self.small, strict=True)
        high, wide = (-(-max(side, few) // self.step) * self.step for side, few in sides)
        made = Enlargement(given, (high, wide), self.factor)
        if max(made.size) > _MOST_PIXELS:
            raise DataError(
                f"'{self.key}' of {given[0]}x{given[1]} (height x width) would be {made.result[0]}x{made.result[1]}, "
                f"enlarged {self.factor} times; a picture has at most {_MOST_PIXELS:,} pixels a side"
            )
        return made


@attrs.frozen
class Enlargement:
    """The way of a picture of the size `given` through a model: padded to `small`, sampled `factor` times as large, and
    cut to `factor` times its size. Sizes are (h, w)."""

    given: Size
    small: Size
    factor: int

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


def whole_picture(value: object, channels: int, name: str) -> NDArray[np.uint8]:
    """A PIL image, upright and without transparency, or an array as uint8 (channels, H, W); DataError for others."""
    if (pil := sys.modules.get("PIL.Image")) is not None and isinstance(value, pil.Image):
        upright = value.copy()
        images.turn_upright(upright)
        plain = images.flat(upright)
        value = images.to_planes(plain if plain.mode in ("L", "RGB") else plain.convert("RGB"))
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"{name}: expected a PIL image or uint8 values (channels, height, width) with 1 or 3 channels, got "
            f"{array.dtype} {array.shape}"
        )
    return images.to_channels(array, channels)
