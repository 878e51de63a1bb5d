"""Masks of straight edges: boxes, a half, all around a window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Degradation, Site
from ldm_plugin_degradations.config import BoxesConfig, HalfConfig, OutpaintingConfig
from ldm_plugin_degradations.drawing import between

Mask = NDArray[np.uint8]
_HALVES = ("left", "right", "top", "bottom")


class Boxes(Degradation):
    """Boxes anywhere in the picture, which may lie over each other."""

    def __init__(self, config: BoxesConfig, site: Site) -> None:
        self.config = config

    def degrade(self, picture: Mask, size: tuple[int, int], random: np.random.Generator) -> Mask:
        """See :class:`~ldm_core.contracts.Degradation`: the mask."""
        made = np.zeros(picture.shape[1:], dtype=np.uint8)
        for _ in range(between(self.config.count, random)):
            made[_window(picture, self.config.side, random)] = 255
        return made


class Half(Degradation):
    """One half, of an odd number of rows or columns the smaller one."""

    def __init__(self, config: HalfConfig, site: Site) -> None:
        self.config = config

    def degrade(self, picture: Mask, size: tuple[int, int], random: np.random.Generator) -> Mask:
        """See :class:`~ldm_core.contracts.Degradation`: the mask."""
        asked = self.config.side
        side = _HALVES[int(random.integers(len(_HALVES)))] if asked == "any" else asked
        axis = 0 if side in ("top", "bottom") else 1
        whole = picture.shape[1 + axis]
        part = slice(0, whole // 2) if side in ("left", "top") else slice(whole - whole // 2, whole)
        made = np.zeros(picture.shape[1:], dtype=np.uint8)
        made[(part, slice(None)) if axis == 0 else (slice(None), part)] = 255
        return made


class Outpainting(Degradation):
    """All but a window."""

    def __init__(self, config: OutpaintingConfig, site: Site) -> None:
        self.config = config

    def degrade(self, picture: Mask, size: tuple[int, int], random: np.random.Generator) -> Mask:
        """See :class:`~ldm_core.contracts.Degradation`: the mask."""
        made = np.full(picture.shape[1:], 255, dtype=np.uint8)
        made[_window(picture, self.config.window, random, centred=self.config.centred)] = 0
        return made


def _window(
    picture: Mask, sides: tuple[float, float], random: np.random.Generator, *, centred: bool = False
) -> tuple[slice, slice]:
    """A window with sides of these shares of the picture's, a pixel at least, anywhere or in the middle."""
    places = []
    for whole in picture.shape[1:]:
        side = min(max(1, round(random.uniform(*sides) * whole)), max(1, whole - 1))
        room = whole - side
        first = room // 2 if centred else int(random.integers(room + 1))
        places.append(slice(first, first + side))
    return places[0], places[1]
