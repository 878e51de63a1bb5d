"""Classical image analysis that names the colour and the shape of the one object in a ``shapes`` picture.

It knows the palette and the four outlines, and nothing of how pictures are generated or trained on. Used to
measure whether a sampled picture shows what its prompt asked for.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldm_core.builtin.shapes.drawing import EXTENTS, inside
from ldm_core.builtin.shapes.scenes import COLOURS, SHAPES

_GRID = 24  # templates and crops are compared at this many cells a side


class Reading(NamedTuple):
    """What was found; both are ``""`` where no object stands out."""

    colour: str
    shape: str
    overlap: float
    """Intersection over union with the best template: near 1 for a clean outline."""


def read_shape(image: NDArray[np.uint8]) -> Reading:
    """``image`` (3, h, w) uint8 with one object on a grey background -> its colour and shape."""
    pixels = ndimage.gaussian_filter(image.astype(np.float64), (0, 0.4, 0.4))
    # Backgrounds are grey: the object is where the channels differ, whatever the background's texture.
    chroma = pixels.max(axis=0) - pixels.min(axis=0)
    peak = float(np.percentile(chroma, 98))
    if peak < 40:
        return Reading("", "", 0.0)
    labels, count = ndimage.label(chroma > peak / 2)
    sizes = ndimage.sum_labels(np.ones_like(chroma), labels, np.arange(1, count + 1))
    found = labels == int(np.argmax(sizes)) + 1
    if found.sum() < 12:
        return Reading("", "", 0.0)
    found = ndimage.binary_fill_holes(found)
    core = ndimage.binary_erosion(found)
    inner = pixels[:, core if core.sum() >= 9 else found]
    shape, overlap = _shape(np.where(found, np.clip(chroma / peak, 0, 1), 0.0))
    return Reading(_colour(np.median(inner, axis=1)), shape, overlap)


def _colour(rgb: NDArray[np.float64]) -> str:
    """The palette's nearest by direction away from grey (hue), then by lightness: pink is no dark purple."""

    def features(colour: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = colour - colour.mean()
        return np.concatenate([centred, [0.35 * colour.mean()]])

    wanted = features(rgb)
    distances = {
        name: float(np.linalg.norm(features(np.array(value, dtype=np.float64)) - wanted))
        for name, value in COLOURS.items()
    }
    return min(distances, key=distances.__getitem__)


def _shape(cover: NDArray[np.float64]) -> tuple[str, float]:
    """``cover`` (h, w) in [0, 1] -> the outline that overlaps it best when fitted to its box."""
    scores = {}
    for shape in SHAPES:
        best = 0.0
        for box in _boxes(cover):
            template = _template(shape)
            patch = _resample(cover, box)
            best = max(best, float(np.minimum(patch, template).sum() / np.maximum(patch, template).sum()))
        scores[shape] = best
    winner = max(scores, key=scores.__getitem__)
    return winner, scores[winner]


def _boxes(cover: NDArray[np.float64]) -> list[tuple[float, float, float, float]]:
    """Top, left, bottom, right guesses, in pixels: sub-pixel ends from the fading edge, and a wider one."""
    top, bottom = _ends(cover.max(axis=1))
    left, right = _ends(cover.max(axis=0))
    return [(top - d, left - d, bottom + d, right + d) for d in (-0.5, 0.0, 0.5)]


def _ends(profile: NDArray[np.float64]) -> tuple[float, float]:
    inside_ = np.flatnonzero(profile >= 0.5)
    return float(inside_[0]), float(inside_[-1] + 1)


def _resample(cover: NDArray[np.float64], box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    top, left, bottom, right = box
    steps = (np.arange(_GRID) + 0.5) / _GRID
    rows = top + steps * (bottom - top) - 0.5
    columns = left + steps * (right - left) - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    return np.asarray(ndimage.map_coordinates(cover, grid, order=1, mode="constant"))


@functools.cache
def _template(shape: str) -> NDArray[np.float64]:
    """The outline filling its own box, (24, 24), blurred by as much as the pictures are."""
    left, top, right, bottom = EXTENTS[shape]
    fine = 8
    steps = (np.arange(_GRID * fine) + 0.5) / (_GRID * fine)
    y, x = top + steps * (bottom - top), left + steps * (right - left)
    hit = inside(shape, y[:, None], x[None, :]).reshape(_GRID, fine, _GRID, fine).mean(axis=(1, 3))
    return np.asarray(ndimage.gaussian_filter(hit, 0.5, mode="constant"))
