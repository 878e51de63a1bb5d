"""A harmonic membrane: errors known around a hole are spread over it, and its edge has no seam.

Source: Pérez, Gangnet and Blake, "Poisson Image Editing" (SIGGRAPH 2003), equation 7: with the gradients of a source
inside, the correction of the source solves Laplace's equation between its values at the edge. Solved on a pyramid, each
level from the one above it by conjugate gradients (Bornemann and Deuflhard, "The cascadic multigrid method for elliptic
problems", 1996).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_SMALL = 8  # cells: a side at which no coarser level helps
_MOST_STEPS = 400
_EXACT = 0.005  # levels of 255: the mean residual of a cell at which a level is solved


def seamless(picture: NDArray[np.uint8], sample: NDArray[np.uint8], known: Mask) -> NDArray[np.uint8]:
    """`sample` (c, H, W) with the difference to `picture` at the `known` pixels (H, W) spread over the others; known
    ones are the picture's. Without any known or unknown pixel it is the sample, or the picture."""
    if known.all() or not known.any():
        return picture if known.all() else sample
    rows, columns = _around(np.any(~known, axis=1)), _around(np.any(~known, axis=0))
    part, out = known[rows, columns], picture.copy()
    for number in range(len(picture)):  # one by one: a large picture's maps of numbers take ten times its memory
        given, made = (each[number : number + 1, rows, columns].astype(np.float32) for each in (picture, sample))
        out[number, rows, columns] = np.clip(np.rint(made + membrane(given - made, part)), 0, 255)[0]
    return out


def _around(there: NDArray[np.bool_]) -> slice:
    """The places that are there, and one more on each side: what lies beyond has no part in the hole."""
    first, last = np.flatnonzero(there)[[0, -1]].tolist()
    return slice(max(first - 1, 0), last + 2)


def membrane(values: Floats, known: Mask) -> Floats:
    """`values` (c, H, W) where `known` (H, W), and between them the harmonic function: each pixel is the mean of its
    neighbours in the picture, which has no edge of its own. At least one pixel is known."""
    held = np.where(known, values, np.float32(0))
    if known.all():
        return held
    height, width = known.shape
    if min(height, width) > _SMALL:
        coarse, known_there = _halved(held, known)
        held = np.where(known, held, _doubled(membrane(coarse, known_there), height, width))
    return _solved(held, known)


def _solved(start: Floats, known: Mask) -> Floats:
    """Conjugate gradients from `start`, the known values of which stay; all channels at once, each by its own steps."""
    hole, degree = ~known, _sides(np.ones((1, *known.shape), np.float32))
    x = start.copy()
    residual = np.where(hole, _sides(x) - degree * x, np.float32(0))
    direction, size = residual.copy(), _dot(residual, residual)
    enough = (_EXACT**2) * float(hole.sum())
    for _ in range(_MOST_STEPS):
        if float(size.max()) <= enough:
            break
        image = np.where(hole, degree * direction - _sides(direction), np.float32(0))
        step = size / np.maximum(_dot(direction, image), 1e-30)
        x += step * direction
        residual -= step * image
        size, before = _dot(residual, residual), size
        direction = residual + size / np.maximum(before, 1e-30) * direction
    return x


def _sides(x: Floats) -> Floats:
    """The sum of each pixel's neighbours at its sides, as many as there are."""
    out = np.zeros_like(x)
    out[:, 1:] += x[:, :-1]
    out[:, :-1] += x[:, 1:]
    out[:, :, 1:] += x[:, :, :-1]
    out[:, :, :-1] += x[:, :, 1:]
    return out


def _dot(a: Floats, b: Floats) -> Floats:
    found: Floats = np.einsum("chw,chw->c", a, b, dtype=np.float64).astype(np.float32)[:, None, None]
    return found


def _halved(values: Floats, known: Mask) -> tuple[Floats, Mask]:
    """The mean of the known values of each square of 2x2 pixels, and the squares that have one."""
    odd = [(0, side % 2) for side in known.shape]
    count = _squares(np.pad(known, odd)[None].astype(np.float32))
    total = _squares(np.pad(values, [(0, 0), *odd]))
    mean: Floats = np.divide(total, np.maximum(count, 1), dtype=np.float32)
    return mean, count[0] > 0


def _squares(x: Floats) -> Floats:
    channels, height, width = x.shape
    summed: Floats = x.reshape(channels, height // 2, 2, width // 2, 2).sum((2, 4))
    return summed


def _doubled(x: Floats, height: int, width: int) -> Floats:
    return x.repeat(2, 1).repeat(2, 2)[:, :height, :width]
