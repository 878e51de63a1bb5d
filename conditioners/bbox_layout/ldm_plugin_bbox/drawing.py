"""Boxes drawn onto the grid of the latents. Imports no torch."""

from __future__ import annotations

import numpy as np


def drawn_boxes(boxes: np.ndarray, classes: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The box that each cell of a grid belongs to: its class (h, w) int64, -1 for none, and the place in it (2, h, w).

    `boxes` (N, 4) x, y, w, h in [0, 1], `classes` (N,). A cell belongs to a box that holds the cell's centre; a box is
    drawn in the cell of its own centre at least, however small it is. Where several boxes lie upon each other the
    smallest is on top. The place is the cell's centre from -1 (left, top edge of the box) to 1, float32, 0 without a
    box: it tells neighbours of one class apart.
    """
    h, w = grid
    found, place = np.full((h, w), -1, np.int64), np.zeros((2, h, w), np.float32)
    x, y = (np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h
    for i in np.argsort(-(boxes[:, 2] * boxes[:, 3]), kind="stable"):
        left, top, width, height = boxes[i]
        u, v = 2.0 * (x - left) / width - 1.0, 2.0 * (y - top) / height - 1.0
        inside = (np.abs(v) <= 1.0)[:, None] & (np.abs(u) <= 1.0)
        own = min(int((top + height / 2) * h), h - 1), min(int((left + width / 2) * w), w - 1)
        inside[own] = True
        found[inside] = classes[i]
        both = np.stack([np.broadcast_to(u, (h, w)), np.broadcast_to(v[:, None], (h, w))])
        place[:, inside] = np.clip(both, -1.0, 1.0)[:, inside]
    return found, place
