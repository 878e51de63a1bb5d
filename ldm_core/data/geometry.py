"""Fitting examples to an image size, cutting and mirroring them: every entry moves by its geometry, known key or not.

Geometries: ``image`` uint8 (c, H, W); ``map`` integer (..., H, W); ``boxes`` float (N, 4) x, y, w, h in
[0, 1]; ``per_box`` (N, ...), one row a box; ``value``, left alone. numpy and PIL only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.data.images import STORED_SIZE, to_planes
from ldm_core.data.palettes import UNLABELED
from ldm_core.errors import DataError

GEOMETRIES: Mapping[str, str] = {
    "image": "image",
    "caption": "value",
    "boxes": "boxes",
    "box_labels": "per_box",
    "segmentation": "map",
    "mask": "map",
    "embedding": "value",
    "class_label": "value",
    "name": "value",
}
"""The geometries of the keys that the conditioners of this project read; of others a data set says its own."""
IMAGE_PADDING = 255  # white, as transparent pictures are flattened on white
MIN_KEPT = 0.1  # share of a box's area that must stay inside the crop for the box to be kept


@attrs.frozen
class Cut:
    """Place of a crop: its sides as a share of the largest cut, and its shift down and right, in [0, 1)."""

    share: float = 1.0
    down: float = 0.5
    right: float = 0.5

    @classmethod
    def drawn(cls, seed: int, smallest: float = 1.0) -> Cut:
        """A random one from `seed`: shares are uniform in [`smallest`, 1], places uniform over all that there are."""
        share, down, right = np.random.default_rng(seed).random(3)
        return cls(1 - float(share) * (1 - smallest), float(down), float(right))


@attrs.frozen
class Fit:
    """Plan from a picture of ``source`` (H, W) to one of ``target``: resized to ``resized``, then its top left corner
    moved to ``offset`` (row, column; negative = cropped away, positive = padding)."""

    source: tuple[int, int]
    target: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]


def plan(
    source: tuple[int, int], target: tuple[int, int], rule: Literal["crop", "pad"] = "crop", cut: Cut | None = None
) -> Fit:
    """Keep the aspect: ``crop`` covers the target and cuts the rest, ``pad`` fits inside; both centred, but for a
    crop at ``cut``."""
    if source == target and cut is None:
        return Fit(source, target, target, (0, 0))
    scales = [target[axis] / source[axis] for axis in (0, 1)]
    scale = max(scales) if rule == "crop" else min(scales)
    tight = scales.index(scale)
    if cut is None or rule == "pad":
        resized = [max(1, round(source[axis] * scale)) for axis in (0, 1)]
        resized[tight] = target[tight]
        offset = [(target[axis] - resized[axis]) // 2 for axis in (0, 1)]
    else:
        resized = [max(target[axis], round(source[axis] * scale / cut.share)) for axis in (0, 1)]
        places = (cut.down, cut.right)
        offset = [-int(place * (whole - kept + 1)) for place, whole, kept in zip(places, resized, target, strict=True)]
    return Fit(source, target, (resized[0], resized[1]), (offset[0], offset[1]))


def fit(
    example: Mapping[str, Any],
    keys: Mapping[str, str],
    size: tuple[int, ...],
    rule: Literal["crop", "pad"] = "crop",
    flip: bool = False,
    cut: Cut | None = None,
) -> dict[str, Any]:
    """``example`` at ``size`` (h, w), mirrored left to right with ``flip``; the input stays unchanged.

    Pictures, which may be PIL images here, are resized antialiased (PIL bicubic with its support scaled), maps by
    nearest; padding is white, and 255 (unlabeled) in maps. Boxes are moved and clipped; one without extent, or of which
    less than a tenth stays, is dropped with its rows in every ``per_box`` entry. Picture and maps must have one shape
    (DataError naming both).
    """
    target = (int(size[-2]), int(size[-1]))
    source = _source(example, keys)
    moved = dict(example)
    kept: NDArray[np.bool_] | None = None
    step = None if source is None else plan(source, target, rule, cut)
    for key, kind in keys.items():
        if key not in example:
            continue
        if kind == "image" and step is not None:
            moved[key] = _fit_image(example[key], step, flip)
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
        here = shape_of(example[key])
        if found is not None and here != found:
            raise DataError(
                f"{example.get('name', 'example')}: '{first}' is {found[0]}x{found[1]} but '{key}' is "
                f"{here[0]}x{here[1]} (height x width); they must match"
            )
        found, first = here, first or key
    return found


def _window(step: Fit) -> tuple[slice, slice] | None:
    """The seen part of a resized picture that covers the whole target; None if there is padding."""
    top, left = -step.offset[0], -step.offset[1]
    bottom, right = top + step.target[0], left + step.target[1]
    if top >= 0 and left >= 0 and bottom <= step.resized[0] and right <= step.resized[1]:
        return slice(top, bottom), slice(left, right)
    return None


def stored_size(picture: Any) -> tuple[int, int]:
    """(H, W) of a picture or map as it is stored; a PIL image may have been decoded smaller."""
    stored = picture.info.get(STORED_SIZE) if hasattr(picture, "getbands") else None
    return shape_of(picture) if stored is None else stored


def shape_of(picture: Any) -> tuple[int, int]:
    """(H, W) of a picture or map, as an array (..., H, W) or a PIL image."""
    height, width = picture.size[::-1] if hasattr(picture, "getbands") else np.shape(picture)[-2:]
    return int(height), int(width)


def _fit_image(image: Any, step: Fit, flip: bool) -> NDArray[Any]:
    if step.resized == step.source:
        picture = hasattr(image, "getbands")
        if picture and step.resized == step.target:  # nothing to cut, and one copy
            return to_planes(image, flip)
        return _placed(to_planes(image) if picture else np.asarray(image), step, flip, IMAGE_PADDING)
    window = _window(step)
    if window is None:
        return _placed(_resized(image, step.resized, None), step, flip, IMAGE_PADDING)
    # Only what is seen is computed: the window in pixels of the source, which it need not meet.
    scale = [old / new for old, new in zip(step.source, step.resized, strict=True)]
    rows, columns = window
    box = (columns.start * scale[1], rows.start * scale[0], columns.stop * scale[1], rows.stop * scale[0])
    box = (box[0], box[1], min(box[2], step.source[1]), min(box[3], step.source[0]))
    return _resized(image, step.target, box, flip)


def _fit_map(labels: NDArray[Any], step: Fit, flip: bool) -> NDArray[Any]:
    if step.resized != step.source:
        # Centres of the new pixels in the old map: nearest without blending classes, at any leading axes.
        index = [
            np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
            for new, old in zip(step.resized, step.source, strict=True)
        ]
        if (window := _window(step)) is not None:
            out = labels[..., index[0][window[0]][:, None], index[1][window[1]][None, :]]
            return np.ascontiguousarray(out[..., ::-1] if flip else out)
        labels = labels[..., index[0][:, None], index[1][None, :]]
    return _placed(labels, step, flip, UNLABELED)


def _resized(
    image: Any, size: tuple[int, int], box: tuple[float, float, float, float] | None, flip: bool = False
) -> NDArray[Any]:
    """(c, H, W), or a PIL image -> (c, *size), of the source's `box` (left, top, right, bottom) or all of it."""
    from PIL import Image

    if not hasattr(image, "getbands"):
        planes = np.asarray(image)
        if len(planes) != 3:
            return np.concatenate([_resized(Image.fromarray(plane), size, box, flip) for plane in planes])
        image = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    return to_planes(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box), flip)


def _placed(array: NDArray[Any], step: Fit, flip: bool, padding: int) -> NDArray[Any]:
    """The resized array cut or padded to the target."""
    (top, left), (height, width) = step.offset, step.target
    tall, wide = step.resized
    if (window := _window(step)) is not None:
        out = array[..., window[0], window[1]]
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
