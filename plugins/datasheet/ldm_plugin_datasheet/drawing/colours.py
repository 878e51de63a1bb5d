"""Distinct colours: each as far from those before it as can be, in Ottosson's OKLab, with distances as seen."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

_STEPS = 16  # levels of a channel among the candidates
_LIGHTNESS = (0.42, 0.84)  # lighter ones are lost on paper, darker ones look alike
_CHROMA = (0.08, 0.2)  # less is for what has no class, more glares
_FIRST = (31, 119, 180)
_TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip


def lab(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB (N, 3), 0 to 255 -> OKLab (N, 3): Ottosson, "A perceptual color space for image processing", 2020."""
    levels = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T)


@cache
def distinct(count: int) -> tuple[Colour, ...]:
    """`count` colours, the first ones the same for every count; none is grey, glaring, very light or very dark."""
    levels = np.linspace(0, 255, _STEPS).round()
    every = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    places = lab(every)
    light, chroma = places[:, 0], np.hypot(places[:, 1], places[:, 2])
    fit = (light > _LIGHTNESS[0]) & (light < _LIGHTNESS[1]) & (chroma > _CHROMA[0]) & (chroma < _CHROMA[1])
    every, places = every[fit], places[fit]
    found: list[Colour] = [_FIRST]
    far = np.full(len(every), np.inf)
    while len(found) < count:
        far = np.minimum(far, np.linalg.norm(places - lab(np.array([found[-1]]))[0], axis=1))
        red, green, blue = every[int(far.argmax())]
        found.append((int(red), int(green), int(blue)))
    return tuple(found[:count])
