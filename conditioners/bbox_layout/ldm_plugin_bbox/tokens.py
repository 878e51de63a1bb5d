"""Boxes and classes to the tokens of a layout. Imports no torch.

The discrete layout of Rombach et al. 2022 (arXiv 2112.10752, section 4.3.1): an object is the triple (class, top-left
cell, bottom-right cell), absent objects are triples of the last token.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ldm_core.errors import DataError
from ldm_plugin_bbox.config import LayoutConfig

ROUNDING = 1e-4
"""The most by which a box may stick out of the image, as a share of its side: float32 arithmetic, no mistake."""

FULL_IMAGE = (0.0, 0.0, 1.0, 1.0)


def corner_tokens(boxes: np.ndarray, grid: int) -> np.ndarray:
    """Boxes (N, 4) x, y, w, h in [0, 1] -> cells (N, 2) of their top-left and bottom-right corners.

    A corner (x, y) is round(y·(grid-1))·grid + round(x·(grid-1)); halves round to the even number.
    """
    corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)  # (N, corner, xy)
    cells = np.rint(np.clip(corners, 0.0, 1.0) * (grid - 1)).astype(np.int64)
    return cells[..., 1] * grid + cells[..., 0]


def ordered(boxes: Any, labels: Any, config: LayoutConfig, *, where: str = "layout") -> tuple[np.ndarray, np.ndarray]:
    """The objects of one layout in their order: boxes (n, 4) float64 and classes (n,) int64, n at most config.objects.

    `boxes` (N, 4) x, y, w, h in [0, 1]; `labels` (N,). Objects come largest first (then top to bottom, left to right,
    by class), so that the order of the annotations does not matter; those beyond config.objects, the smallest, are
    left out. `where` names the example in errors (DataError): wrong shapes, boxes that leave the image or have no
    extent, classes out of range.
    """
    b = _boxes(boxes, f"'{config.boxes}' of {where}")
    classes = np.asarray(labels)
    if classes.size == 0:
        classes = np.zeros(0, np.int64)
    if classes.shape != (len(b),) or classes.dtype.kind not in "iu":
        raise DataError(
            f"'{config.labels}' of {where} has shape {classes.shape} and type {classes.dtype}; "
            f"one integer for each of the {len(b)} boxes is needed"
        )
    limit = config.classes or config.none_token
    if len(wrong := np.flatnonzero((classes < 0) | (classes >= limit))):
        raise DataError(
            f"'{config.labels}' of {where} holds {classes[wrong[0]]}; allowed: 0 to {limit - 1} ({limit} classes)"
        )
    order = np.lexsort((classes, b[:, 0], b[:, 1], -(b[:, 2] * b[:, 3])))[: config.objects]
    return b[order], classes.astype(np.int64)[order]


def layout_tokens(
    boxes: Any, labels: Any, config: LayoutConfig, *, crop: Any = None, where: str = "layout"
) -> np.ndarray:
    """One layout, as for :func:`ordered`, -> its tokens (config.length,), int64.

    `crop` (4,) or None for the full image.
    """
    return tokens_of(*ordered(boxes, labels, config, where=where), config, crop=crop, where=where)


def tokens_of(
    b: np.ndarray, classes: np.ndarray, config: LayoutConfig, *, crop: Any = None, where: str = "layout"
) -> np.ndarray:
    """Objects in their order -> the tokens of :func:`layout_tokens`."""
    tokens = np.full(config.length, config.none_token, np.int64)
    tokens[: 3 * len(b)] = np.column_stack([classes, corner_tokens(b, config.grid)]).reshape(-1)
    if config.encode_crop:
        rectangle = FULL_IMAGE if crop is None else np.asarray(crop, np.float64).reshape(-1, 4)[0]
        tokens[-2:] = corner_tokens(_boxes([rectangle], f"'{config.crop}' of {where}"), config.grid)[0]
    return tokens


def _boxes(boxes: object, where: str) -> np.ndarray:
    try:
        b = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: not numbers; rows of x, y, w, h in [0, 1] are needed") from None
    if b.size == 0:
        return np.zeros((0, 4))
    if b.ndim != 2 or b.shape[1] != 4:
        raise DataError(f"{where} has shape {b.shape}; rows of x, y, w, h in [0, 1] are needed")
    outside = ~np.isfinite(b).all(1) | (b[:, :2] < -ROUNDING).any(1) | (b[:, :2] + b[:, 2:] > 1 + ROUNDING).any(1)
    empty = (b[:, 2:] <= 0).any(1)
    for wrong, why in ((outside, "leaves the image"), (empty, "has no extent")):
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            x, y, w, h = b[i]
            raise DataError(
                f"{where}: box {i}, x {x:g} y {y:g} w {w:g} h {h:g}, {why}; x, y, x + w and y + h in [0, 1] are "
                "needed, as shares of the image's sides, with w and h above 0"
            )
    return b
