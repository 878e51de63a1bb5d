"""Pixels, label maps and boxes of ``shapes`` scenes. Needs numpy only."""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ldm_core.builtin.shapes.scenes import PLAIN, Scene, Thing

_Array: TypeAlias = NDArray[np.float64]

OVERSAMPLE = 4  # samples per pixel and axis inside an object's box: 16 levels of edge coverage
_STAR_OUTER, _STAR_DROP = 0.52, 0.04  # radius, and the shift that centres the star's box, in diameters
_STAR_INNER = 0.45  # inner over outer radius; the pentagram's 0.38 leaves arms under a pixel wide at 32 px
_TINT = 30  # peak-to-peak grey difference inside a texture

# left, top, right, bottom in diameters from the centre; none leaves [-0.5, 0.5]
EXTENTS: dict[str, tuple[float, float, float, float]] = {
    "circle": (-0.5, -0.5, 0.5, 0.5),
    "square": (-0.44, -0.44, 0.44, 0.44),
    "triangle": (-0.5, -0.46, 0.5, 0.42),
    "star": (
        -_STAR_OUTER * math.sin(2 * math.pi / 5),
        -_STAR_OUTER + _STAR_DROP,
        _STAR_OUTER * math.sin(2 * math.pi / 5),
        _STAR_OUTER * math.cos(math.pi / 5) + _STAR_DROP,
    ),
}


def inside(shape: str, y: _Array, x: _Array) -> NDArray[np.bool_]:
    """Mask of the points in the shape; ``y``, ``x`` are in diameters from its centre, y downwards."""
    if shape == "circle":
        return np.asarray(x * x + y * y <= 0.25)
    left, top, right, bottom = EXTENTS[shape]
    if shape == "square":
        return np.asarray((x >= left) & (x <= right) & (y >= top) & (y <= bottom))
    if shape == "triangle":
        return np.asarray((y <= bottom) & (np.abs(x) * (bottom - top) <= right * (y - top)))
    if shape == "star":
        # Fold the plane onto half an arm: angle 0 is a tip, pi/5 a notch; the edge is the line between them.
        y = y - _STAR_DROP
        radius = np.hypot(x, y)
        angle = np.arctan2(x, -y) % (2 * math.pi / 5)
        angle = np.minimum(angle, 2 * math.pi / 5 - angle)
        tip, notch = _STAR_OUTER, _STAR_OUTER * _STAR_INNER
        notch_x, notch_y = notch * math.cos(math.pi / 5), notch * math.sin(math.pi / 5)
        across = (radius * np.cos(angle) - tip) * notch_y - radius * np.sin(angle) * (notch_x - tip)
        return np.asarray(across <= 0)
    raise ValueError(f"unknown shape '{shape}'; known: {', '.join(EXTENTS)}")


def box(thing: Thing, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x, y, width, height of the object's tight box, as fractions of width and height of ``size`` (h, w)."""
    unit = thing.diameter * min(size)
    left, top, right, bottom = (side * unit for side in EXTENTS[thing.shape])
    height, width = size
    return (
        thing.x + left / width, thing.y + top / height, (right - left) / width, (bottom - top) / height
    )  # fmt: skip


def coverage(thing: Thing, size: tuple[int, int]) -> tuple[slice, slice, _Array]:
    """Rows and columns of the window that holds the object, and how much of each pixel there it covers."""
    height, width = size
    x, y, box_width, box_height = box(thing, size)
    rows = slice(max(0, math.floor(y * height)), min(height, math.ceil((y + box_height) * height)))
    columns = slice(max(0, math.floor(x * width)), min(width, math.ceil((x + box_width) * width)))
    unit = thing.diameter * min(size)
    points_y = (_samples(rows.start, rows.stop) - thing.y * height) / unit
    points_x = (_samples(columns.start, columns.stop) - thing.x * width) / unit
    hit = inside(thing.shape, points_y[:, None], points_x[None, :])
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    return rows, columns, hit.reshape(tall, OVERSAMPLE, wide, OVERSAMPLE).mean(axis=(1, 3))


def _samples(start: int, stop: int) -> _Array:
    """Sample points of the pixels start..stop, in pixels."""
    return start + (np.arange((stop - start) * OVERSAMPLE) + 0.5) / OVERSAMPLE


def draw_image(scene: Scene, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(3, h, w) picture."""
    canvas = np.repeat(background(scene, size)[None], 3, axis=0)
    for thing in scene.things:
        rows, columns, share = coverage(thing, size)
        window = canvas[:, rows, columns]
        window += share * (np.array(thing.rgb, dtype=np.float64)[:, None, None] - window)
    return np.asarray(np.clip(canvas + 0.5, 0, 255), dtype=np.uint8)


def draw_segmentation(scene: Scene, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w) label map: 0 background, class + 1 where an object covers half of the pixel or more."""
    labels = np.zeros(size, dtype=np.uint8)
    for thing in scene.things:
        rows, columns, share = coverage(thing, size)
        labels[rows, columns][share >= 0.5] = thing.class_index + 1
    return labels


def draw_mask(numbers: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w) mask made of nine uniforms: 255 in one hole, 0 elsewhere.

    Half of them are boxes whose sides are 0.25 to 0.6 of the picture's, half are blobs: a circle of diameter 0.3 to 0.6
    of the short side whose edge is bent by two waves. The hole lies inside the picture.
    """
    kind, first, second, down, right, *waves = numbers[:9].tolist()
    height, width = size
    mask = np.zeros(size, dtype=np.uint8)
    if kind < 0.5:
        tall, wide = (max(1, round((0.25 + 0.35 * n) * side)) for n, side in zip((first, second), size, strict=True))
        top, left = round(down * (height - tall)), round(right * (width - wide))
        mask[top : top + tall, left : left + wide] = 255
        return mask
    radius = 0.15 + 0.15 * first
    reach = 1.4 * radius  # of the edge where both waves crest
    y, x = _coordinates(size)
    tall, wide = height / min(size), width / min(size)
    y = y - (reach + down * (tall - 2 * reach))
    x = x - (reach + right * (wide - 2 * reach))
    angle = np.arctan2(y, x)
    second_wave, third_wave = (0.2 * n for n in waves[:2])
    bent = second_wave * np.cos(2 * angle + 2 * math.pi * waves[2])
    bent = bent + third_wave * np.cos(3 * angle + 2 * math.pi * waves[3])
    mask[np.hypot(y, x) <= radius * (1 + bent)] = 255
    return mask


def background(scene: Scene, size: tuple[int, int]) -> _Array:
    """(h, w) grey levels, 0 to 255."""
    first, second, third, fourth, fifth = scene.numbers
    if scene.background in PLAIN:
        return np.full(size, PLAIN[scene.background] + 8 * first - 4)
    y, x = _coordinates(size)
    if scene.background == "gradient":
        angle = 2 * math.pi * first
        low, high = 20 + 90 * second, 150 + 90 * third
        along = 0.5 + 0.7 * ((x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle))
        return np.asarray(low + (high - low) * np.clip(along, 0, 1))
    level = 40 + 175 * first
    if scene.background == "striped":
        angle = math.pi * round(4 * second) / 4
        wave = np.sin(2 * math.pi * (4 * (x * math.cos(angle) + y * math.sin(angle)) + third))
        return np.asarray(level + _TINT / 2 * np.clip(2 * wave, -1, 1))
    if scene.background == "checkered":
        cells = np.sin(2 * math.pi * (2 * x + third)) * np.sin(2 * math.pi * (2 * y + fourth))
        return np.asarray(level + _TINT / 2 * np.clip(4 * cells, -1, 1))
    if scene.background == "noisy":
        grid = np.random.Philox(int(fifth * 2**53)).random_raw(81)
        knots = ((grid >> np.uint64(11)).astype(np.float64) / 2.0**53).reshape(9, 9)
        return np.asarray(level + _TINT * (_between(knots, y / y.max(initial=1), x / x.max(initial=1)) - 0.5))
    raise ValueError(f"unknown background '{scene.background}'")


def _between(knots: _Array, y: _Array, x: _Array) -> _Array:
    """Bilinear interpolation in a square grid of knots; ``y`` (h, 1) and ``x`` (1, w) run from 0 to 1."""
    last = knots.shape[0] - 1
    row = np.minimum((y[:, 0] * last).astype(int), last - 1)
    column = np.minimum((x[0] * last).astype(int), last - 1)
    down, across = y * last - row[:, None], x * last - column[None, :]
    upper = knots[row][:, column] * (1 - across) + knots[row][:, column + 1] * across
    lower = knots[row + 1][:, column] * (1 - across) + knots[row + 1][:, column + 1] * across
    return upper * (1 - down) + lower * down


@functools.lru_cache(maxsize=8)
def _coordinates(size: tuple[int, int]) -> tuple[_Array, _Array]:
    """Pixel centres in units of the short side: (h, 1) and (1, w)."""
    short = min(size)
    return (np.arange(size[0]) + 0.5)[:, None] / short, (np.arange(size[1]) + 0.5)[None, :] / short
