"""Masks for filling in: drawn as boxes, and held to having something to fill. numpy only, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.errors import ConfigError, quoted

HOLE = 255
"""The level of a hole in a drawn mask."""
_EDGE = 1e-3  # as much may a box reach past the picture, for the sake of rounded numbers


def of_boxes(boxes: Iterable[Any], size: tuple[int, int], where: str = "mask") -> NDArray[np.uint8]:
    """Boxes [x, y, w, h] in fractions of a picture of `size` (h, w) -> uint8 (h, w), 255 in holes and 0 elsewhere.

    A pixel belongs to a box if its centre does; one at least does. ConfigError for a box beyond the picture.
    """
    out = np.zeros(size, dtype=np.uint8)
    for i, box in enumerate(boxes):
        try:
            x, y, w, h = (float(v) for v in box)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{where}: box {i}: expected [x, y, w, h], got {quoted(box, 60)}") from None
        inside = 0 <= x <= 1 and 0 <= y <= 1 and 0 < w <= 1 and 0 < h <= 1
        if not inside or x + w > 1 + _EDGE or y + h > 1 + _EDGE:
            raise ConfigError(
                f"{where}: box {i}: [{x:g}, {y:g}, {w:g}, {h:g}] leaves the picture; x, y, w, h are fractions of it, x "
                "and y of the upper left corner"
            )
        out[_pixels(y, h, size[0]), _pixels(x, w, size[1])] = HOLE
    return out


def _pixels(low: float, extent: float, count: int) -> slice:
    first = min(count - 1, max(0, int(np.ceil(low * count - 0.5))))
    return slice(first, max(first + 1, min(count, int(np.ceil((low + extent) * count - 0.5)))))


def holes(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask (H, W) -> its holes, booleans of its shape.

    Floats: .5 and above. Integers are the grey levels of a picture, 128 and above; without any between 1 and 255, they
    are numbers of classes, and all above 0 are holes (255 also pads maps).
    """
    if mask.dtype.kind == "b":
        return mask
    if mask.dtype.kind == "f":
        return np.asarray(mask >= 0.5)
    grey = bool(((mask > 1) & (mask < HOLE)).any())
    return np.asarray(mask >= (128 if grey else 1))
