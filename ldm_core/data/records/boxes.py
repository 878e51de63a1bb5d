"""Boxes as data stores them: fractions or pixels, corners or sides, a little past the edge or far from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.errors import quoted

if TYPE_CHECKING:
    from ldm_core.data.records.store import Boxes

OVERHANG = 2.0
"""Pixels by which a box may pass its picture's edge: some count from 1, others round. The rest is cut off."""
_SHARE = 0.01  # of the picture's side, where that is more
_EDGES = ("left", "top", "right", "bottom")


class Form(Protocol):
    """The way in which boxes are stored: two of the settings of a reader."""

    @property
    def box_format(self) -> Literal["xyxy", "xywh"]:
        """Numbers of a box: two corners, or a corner and the size."""
        ...

    @property
    def box_units(self) -> Literal["fraction", "pixel"]:
        """Unit of those numbers."""
        ...


@attrs.frozen
class _Annotated:
    """The form of annotations, which a reader of their format has put them into."""

    box_units: Literal["fraction", "pixel"]
    box_format: Literal["xyxy", "xywh"] = "xyxy"


def annotated_boxes(boxes: Boxes, own_size: Callable[[], tuple[int, int]]) -> NDArray[np.float32]:
    """Boxes of annotation files as :func:`boxes_of` has them; the same ValueErrors, with the file."""
    size = {} if boxes.size is None else {"height": boxes.size[0], "width": boxes.size[1]}
    try:
        return boxes_of(boxes.corners.tolist(), _Annotated(boxes.units), size, own_size)
    except ValueError as error:
        raise ValueError(f"{boxes.place}: {error}") from error


def boxes_of(
    value: Any, config: Form, fields: Mapping[str, Any], own_size: Callable[[], tuple[int, int]]
) -> NDArray[np.float32]:
    """Boxes as stored -> float32 (N, 4) x, y, width, height in [0, 1], cut off at the edges of the picture.

    `own_size`: the (H, W) of the picture, zeros if unknown; asked where the fields do not say it, or a box overhangs.
    ValueError for a box that overhangs by more than :data:`OVERHANG` pixels, with its place in pixels.
    """
    boxes = _array(value)
    if config.box_units == "pixel":
        scale = np.array(_width_and_height(fields, own_size), dtype=np.float64)
        boxes = boxes / np.tile(scale, 2)
    if config.box_format == "xyxy":
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    if len(boxes) and boxes[:, 2:].min() < 0:
        first = int((boxes[:, 2:] < 0).any(axis=1).argmax())
        raise ValueError(
            f"box {first}, {quoted(value[first], 60)}, has a negative side as {config.box_format}; "
            + ("correct it" if isinstance(config, _Annotated) else "check dataset.box_format")
        )
    if len(boxes) and (low.min() < -_SHARE or high.max() > 1 + _SHARE):
        _refuse_far(value, np.concatenate([low, high], axis=1), config, own_size)
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return np.concatenate([low, high - low], axis=1).astype(np.float32)


def _array(value: Any) -> NDArray[np.float64]:
    try:
        boxes = np.array(value, dtype=np.float64).reshape(-1, 4) if len(value) else np.zeros((0, 4))
        good = isinstance(value, list) and len(boxes) == len(value) and bool(np.isfinite(boxes).all())
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise ValueError(f"expected a list of boxes of four finite numbers, got {quoted(value, 60)}")
    return boxes


def _width_and_height(fields: Mapping[str, Any], own_size: Callable[[], tuple[int, int]]) -> tuple[float, float]:
    """Picture size from the fields, which may be of a larger original; else the picture's own."""
    said = [fields.get("width"), fields.get("height")]
    if all(isinstance(n, int | float) and not isinstance(n, bool) and 0 < n < 1e9 for n in said):
        return said[0], said[1]  # type: ignore[return-value]
    if said != [None, None]:
        raise ValueError(
            f"'width' and 'height' are {quoted(said[0], 40)} and {quoted(said[1], 40)}; expected two sizes in pixels, "
            "or neither, for those of the picture"
        )
    height, width = own_size()
    if not width or not height:
        raise ValueError(
            "boxes in pixels need the size of the picture, which cannot be told; give 'width' and 'height'"
        )
    return width, height


def _refuse_far(
    value: Any, corners: NDArray[np.float64], config: Form, own_size: Callable[[], tuple[int, int]]
) -> None:
    """ValueError for the box farthest past an edge, if that is more than may be cut off."""
    height, width = own_size()
    past = np.concatenate([-corners[:, :2], corners[:, 2:] - 1], axis=1)
    sides = np.array([width, height, width, height], dtype=np.float64)
    pixels = past * sides
    far = (past > _SHARE) & ((pixels > OVERHANG + 0.01) | (not width))
    if not far.any():
        return
    box, edge = (int(n) for n in np.unravel_index(int(np.where(far, past, 0).argmax()), past.shape))
    if config.box_units == "fraction" and not width:
        where = f"reaches {corners[box].max():.4g}, where 1 is the edge"
    else:
        x, y, right, bottom = corners[box] * sides
        where = (
            f"from ({x:.5g}, {y:.5g}) to ({right:.5g}, {bottom:.5g}) in pixels, reaches {pixels[box, edge]:.4g} past "
            f"the {_EDGES[edge]} edge of its picture, {width}x{height} (width x height)"
        )
    if isinstance(config, _Annotated):
        fix = "correct it there"
    elif config.box_units == "fraction":
        fix = "set dataset.box_units=pixel if that is what they are, or check dataset.box_format"
    else:
        fix = "check dataset.box_format, and 'width' and 'height' beside the boxes where they are given"
    raise ValueError(f"box {box}, {quoted(value[box], 60)}, {where}; {fix}")
