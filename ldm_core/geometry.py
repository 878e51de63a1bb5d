"""Fitting examples to an image size, and mirroring them: every entry moves by its geometry, known key or not.

Geometries: ``image`` uint8 (c, H, W); ``map`` integer (..., H, W); ``boxes`` float (N, 4) x, y, w, h in
[0, 1]; ``per_box`` (N, ...), one row a box; ``value``, left alone. numpy and PIL only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.errors import DataError

UNLABELED = 255  # what padding of a label map holds
IMAGE_PADDING = 255  # white, as transparent pictures are flattened on white
MIN_KEPT = 0.1  # share of a box's area that must stay inside the crop for the box to be kept


@attrs.frozen
class Fit:
    """How a picture of ``source`` (H, W) becomes one of ``target``: resized to ``resized``, then its top left
    corner moved to ``offset`` (row, column; negative = cropped away, positive = padding)."""

    source: tuple[int, int]
    target: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]


def plan(source: tuple[int, int], target: tuple[int, int], rule: Literal["crop", "pad"] = "crop") -> Fit:
    """Keep the aspect: ``crop`` covers the target and cuts the rest, ``pad`` fits inside; both centred."""
    scales = [target[axis] / source[axis] for axis in (0, 1)]
    scale = max(scales) if rule == "crop" else min(scales)
    tight = scales.index(scale)
    resized = [max(1, round(source[axis] * scale)) for axis in (0, 1)]
    resized[tight] = target[tight]
    offset = [(target[axis] - resized[axis]) // 2 for axis in (0, 1)]
    return Fit(source, target, (resized[0], resized[1]), (offset[0], offset[1]))


def fit(
    example: Mapping[str, Any],
    keys: Mapping[str, str],
    size: tuple[int, ...],
    rule: Literal["crop", "pad"] = "crop",
    flip: bool = False,
) -> dict[str, Any]:
    """``example`` at ``size`` (h, w), mirrored left to right with ``flip``; the input stays unchanged.

    Pictures are resized antialiased (PIL bicubic with its support scaled), maps by nearest; padding is white,
    and 255 (unlabeled) in maps. Boxes are moved and clipped; one without extent, or of which less than a tenth
    stays, is dropped with its rows in every ``per_box`` entry. Picture and maps must have one shape (DataError
    naming both).
    """
    target = (int(size[-2]), int(size[-1]))
    source = _source(example, keys)
    moved = dict(example)
    kept: NDArray[np.bool_] | None = None
    step = None if source is None else plan(source, target, rule)
    for key, kind in keys.items():
        if key not in example:
            continue
        if kind == "image" and step is not None:
            moved[key] = _fit_image(np.asarray(example[key]), step, flip)
        elif kind == "map" and step is not None:
            moved[key] = _fit_map(np.asarray(example[key]), step, flip)
        elif kind == "boxes":
            boxes, here = _fit_boxes(np.asarray(example[key], dtype=np.float32), step, flip)
            moved[key] = boxes
            kept = here if kept is None else kept
    if kept is not None and not kept.all():
        for key, kind in keys.items():
            if kind in ("boxes", "per_box") and key in moved:
                moved[key] = _rows(moved[key], kept, key)
    return moved


def _source(example: Mapping[str, Any], keys: Mapping[str, str]) -> tuple[int, int] | None:
    """The one (H, W) of all pictures and maps; None where there are none."""
    found: tuple[int, int] | None = None
    first = ""
    for key, kind in keys.items():
        if kind not in ("image", "map") or key not in example:
            continue
        shape = np.shape(example[key])
        here = (int(shape[-2]), int(shape[-1]))
        if found is not None and here != found:
            raise DataError(
                f"{example.get('name', 'example')}: '{first}' is {found[0]}x{found[1]} but '{key}' is "
                f"{here[0]}x{here[1]} (height x width); they must match"
            )
        found, first = here, first or key
    return found


def _fit_image(image: NDArray[Any], step: Fit, flip: bool) -> NDArray[Any]:
    if step.resized != step.source:
        image = np.stack([_resized(plane, step.resized) for plane in image])
    return _placed(image, step, flip, IMAGE_PADDING)


def _fit_map(labels: NDArray[Any], step: Fit, flip: bool) -> NDArray[Any]:
    if step.resized != step.source:
        # Centres of the new pixels in the old map: nearest without blending classes, at any leading axes.
        index = [
            np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
            for new, old in zip(step.resized, step.source, strict=True)
        ]
        labels = labels[..., index[0][:, None], index[1][None, :]]
    return _placed(labels, step, flip, UNLABELED)


def _resized(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    from PIL import Image

    return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _placed(array: NDArray[Any], step: Fit, flip: bool, padding: int) -> NDArray[Any]:
    """The resized array cut or padded to the target."""
    (top, left), (height, width) = step.offset, step.target
    tall, wide = step.resized
    if (tall, wide) == (height, width):
        out = array
    elif top <= 0 and left <= 0 and tall + top >= height and wide + left >= width:
        out = array[..., -top : height - top, -left : width - left]
    else:
        out = np.full((*array.shape[:-2], height, width), padding, dtype=array.dtype)
        rows = slice(max(0, top), min(height, tall + top))
        columns = slice(max(0, left), min(width, wide + left))
        out[..., rows, columns] = array[
            ..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
    return np.ascontiguousarray(out[..., ::-1] if flip else out)


def _fit_boxes(
    boxes: NDArray[np.float32], step: Fit | None, flip: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes in the target's fractions, clipped to it, and which of them are still there."""
    boxes = boxes.reshape(-1, 4)
    if not flip and (step is None or step.source == step.target):
        return boxes.copy(), np.prod(boxes[:, 2:], axis=1) > 0
    boxes = boxes.astype(np.float64)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    if step is not None:
        scale = np.array([step.resized[1] / step.target[1], step.resized[0] / step.target[0]])
        shift = np.array([step.offset[1] / step.target[1], step.offset[0] / step.target[0]])
        low, high = low * scale + shift, high * scale + shift
    before = np.prod(high - low, axis=1)
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    after = np.prod(high - low, axis=1)
    kept = after > MIN_KEPT * before
    if flip:
        low[:, 0], high[:, 0] = 1 - high[:, 0], 1 - low[:, 0].copy()
    return np.concatenate([low, high - low], axis=1).astype(np.float32), kept


def _rows(value: Any, kept: NDArray[np.bool_], key: str) -> Any:
    if len(value) != len(kept):
        raise DataError(f"'{key}' has {len(value)} rows for {len(kept)} boxes; it needs one a box")
    if isinstance(value, np.ndarray):
        return value[kept]
    return type(value)(row for row, keep in zip(value, kept, strict=True) if keep)
