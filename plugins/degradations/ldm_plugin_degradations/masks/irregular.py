"""Masks of strokes, as LaMa was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ldm_core.contracts import Degradation, Site
from ldm_plugin_degradations.config import IrregularConfig
from ldm_plugin_degradations.drawing import between

_SIDE = 256
"""The shorter side of the pictures that the published settings are for."""
_TRIES = 100
_SEGMENTS = 5
Mask = NDArray[np.uint8]


class Irregular(Degradation):
    """Strokes with a round brush, each of one to five segments and one width, or boxes (Suvorov et al. 2021, arXiv
    2109.07161, section 3.3, with the numbers of its program); at most `most` of the picture, and at least a pixel."""

    def __init__(self, config: IrregularConfig, site: Site) -> None:
        self.config = config

    def degrade(self, picture: Mask, size: tuple[int, int], random: np.random.Generator) -> Mask:
        """See :class:`~ldm_core.contracts.Degradation`: the mask."""
        height, width = picture.shape[1:]
        best: Mask | None = None
        for _ in range(_TRIES):
            drawn = self._boxes if random.random() < self.config.boxes else self._strokes
            made = drawn(height, width, random)
            if made.any() and (best is None or made.sum(dtype=np.int64) < best.sum(dtype=np.int64)):
                best = made
            if made.any() and np.count_nonzero(made) <= self.config.most * made.size:
                return made
        if best is None:  # boxes that the picture has no room for
            best = np.zeros((height, width), dtype=np.uint8)
            best[random.integers(height), random.integers(width)] = 255
        return best

    def _strokes(self, height: int, width: int, random: np.random.Generator) -> Mask:
        config, scale = self.config, min(height, width) / _SIDE
        image = Image.new("L", (width, height))
        pen = ImageDraw.Draw(image)
        for _ in range(between(config.strokes, random)):
            x, y = random.random() * width, random.random() * height
            brush = max(1, round((5 + int(random.integers(config.width))) * scale))
            for segment in range(1 + int(random.integers(_SEGMENTS))):
                angle = 0.01 + int(random.integers(config.angle))
                angle = -angle if segment % 2 == 0 else angle  # back and forth
                length = (10 + int(random.integers(config.length))) * scale
                to_x = float(np.clip(x + length * np.sin(angle), 0, width))
                to_y = float(np.clip(y + length * np.cos(angle), 0, height))
                pen.line((x, y, to_x, to_y), fill=255, width=brush)
                for at_x, at_y in ((x, y), (to_x, to_y)):
                    half = brush / 2
                    pen.ellipse((at_x - half, at_y - half, at_x + half, at_y + half), fill=255)
                x, y = to_x, to_y
        return np.array(image)

    def _boxes(self, height: int, width: int, random: np.random.Generator) -> Mask:
        config, scale = self.config, min(height, width) / _SIDE
        made, margin = np.zeros((height, width), dtype=np.uint8), round(config.margin * scale)
        for _ in range(between(config.count, random)):
            places = []
            for whole in (height, width):
                side = max(1, round(between(config.side, random) * scale))
                side = min(side, max(1, whole - 2 * margin))
                first = margin + int(random.integers(max(1, whole - 2 * margin - side + 1)))
                places.append(slice(first, first + side))
            made[tuple(places)] = 255
        return made
