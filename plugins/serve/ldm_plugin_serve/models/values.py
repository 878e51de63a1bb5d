"""Values of inputs from clients -> the form of one example of a data set. All of them are taken for hostile.

A picture's size is looked at before it is decoded. Nothing is opened but the given bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_core.cli.inputs import read_boxes
from ldm_core.data import images
from ldm_core.data.inputs.masks import of_boxes
from ldm_core.errors import ConfigError, LDMError
from ldm_plugin_serve.faults import Fault, of_error
from ldm_plugin_serve.limits import Limits

_MOST_NUMBERS = 1 << 22  # of an array sent as rows of numbers
_DEEPEST = 8


def text(value: Any, where: str, limits: Limits) -> str:
    """A caption."""
    if not isinstance(value, str):
        raise Fault(f"expected a text, got {_kind(value)}", where)
    if len(value) > limits.text:
        raise Fault(f"{len(value):,} characters; at most {limits.text:,} are read", where)
    return value


def label(value: Any, where: str) -> str | int:
    """A class: its name or its number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Fault(f"expected the name or the number of a class, got {_kind(value)}", where)
    if isinstance(value, int) and not 0 <= value < 1 << 31:
        raise Fault("is no number of a class", where)
    return value if isinstance(value, int) else value[:400]


def boxes(value: Any, where: str, limits: Limits, *, labelled: bool) -> dict[str, Any]:
    """``[{"class", "box": [x, y, w, h]}]`` -> `boxes` (N, 4) and, if `labelled`, `box_labels`."""
    if not isinstance(value, list):
        raise Fault(f"expected a list of boxes, got {_kind(value)}", where, fix='[{"class": 0, "box": [0, 0, 0.5, 1]}]')
    if len(value) > limits.boxes:
        raise Fault(f"{len(value)} boxes; at most {limits.boxes} are read", where)
    corners, labels = [], []
    for number, row in enumerate(value):
        place = f"{where}[{number}]"
        if not isinstance(row, Mapping) or not row.keys() <= {"class", "box"} or "box" not in row:
            raise Fault("expected a class and a box", place, allowed=["class", "box"])
        box = row["box"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise Fault("expected four numbers x, y, w, h in shares of the picture", f"{place}.box")
        corners.append(box)
        if labelled:
            if "class" not in row:
                raise Fault("has no class", place)
            labels.append(label(row["class"], f"{place}.class"))
        elif row.get("class") is not None:
            raise Fault("this model reads boxes without classes", f"{place}.class")
    said = {"boxes": corners, **({"labels": labels} if labelled else {})}
    try:
        return read_boxes(json.dumps(said), "inputs")
    except ConfigError as error:
        raise of_error(error, where) from None


def picture(value: Any, where: str, channels: int, limits: Limits) -> np.ndarray:
    """A picture as uint8 (channels, H, W)."""
    data = held(sent_bytes(value, where), where, limits)
    return _read(lambda: images.decode_image(data, channels, where), where)


def mask(value: Any, where: str, size: tuple[int, int], limits: Limits) -> np.ndarray:
    """A mask, a picture or boxes [x, y, w, h], as int64 (H, W); boxes at `size`."""
    if isinstance(value, list):
        if len(value) > limits.boxes:
            raise Fault(f"{len(value)} boxes; at most {limits.boxes} are read", where)
        rows = value if value and isinstance(value[0], list) else [value]
        if not all(isinstance(row, list) and len(row) == 4 and all(map(_is_number, row)) for row in rows):
            raise Fault("expected a picture, or boxes [x, y, w, h] in shares of it", where)
        return _read(lambda: of_boxes(rows, size, where).astype(np.int64), where)
    data = held(sent_bytes(value, where), where, limits)
    return _read(lambda: images.decode_mask(data, where), where)


def label_map(value: Any, where: str, size: tuple[int, int], limits: Limits) -> np.ndarray:
    """A label map, a PNG of class numbers or colours, or rows of numbers stretched to `size`: int64 (H, W), or
    (3, H, W) in colour."""
    if not isinstance(value, list):
        data = held(sent_bytes(value, where), where, limits)
        return _read(lambda: images.decode_labels(data, where, colours=True), where)
    found = numbers(value, where)
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype != np.int64 or not found.size:
        raise Fault("expected a PNG, or rows of whole numbers of one length", where)
    rows, columns = ([i * have // want for i in range(want)] for want, have in zip(size, found.shape, strict=True))
    return found[rows][:, columns]


def numbers(value: Any, where: str) -> Any:
    """Any plain value; lists of numbers as arrays. :class:`Fault` for numbers that are not finite, and for depth."""
    _finite(value, where, 0, [_MOST_NUMBERS])
    if not isinstance(value, list):
        return value
    try:
        array = np.array(value)
    except ValueError:  # rows of unequal length: for the conditioner that asked for the key
        return value
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype.kind == "f" else value


def _finite(value: Any, where: str, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if depth > _DEEPEST or left[0] < 0:
        raise Fault("is nested too deeply, or too long", where)
    if isinstance(value, float) and not math.isfinite(value):
        raise Fault("holds a number that is not finite (NaN or infinite)", where)
    if isinstance(value, int) and not -(1 << 62) < value < 1 << 62:
        raise Fault("holds a number beyond 62 bits", where)
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _finite(each, where, depth + 1, left)


def sent_bytes(value: Any, where: str) -> bytes:
    """The bytes of a picture, of a form or in base64."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise Fault(f"expected a picture, base64 or a file of the form, got {_kind(value)}", where)
    head, comma, rest = value.partition(",")
    if value[:5].lower() == "data:":
        if not comma or not head.lower().endswith(";base64"):
            raise Fault("is a data URL without base64", where)
        value = rest
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Fault(
            "is not base64", where, fix="send the bytes of a PNG or JPEG as base64, without line breaks"
        ) from None


def held(data: bytes, where: str, limits: Limits) -> bytes:
    """`data`, if it is a picture of a bounded size by its header."""
    opened = _read(lambda: images.open_picture(data, where), where)
    if opened.width * opened.height > limits.given_pixels:
        raise Fault(
            f"the picture has {opened.width}x{opened.height} pixels; at most {limits.given_pixels:,} are read", where,
            status=413, fix="make it smaller",
        )  # fmt: skip
    return data


def _read(read: Any, where: str) -> Any:
    try:
        return read()
    except LDMError as error:
        raise of_error(error, where) from None
    except Exception:
        raise Fault("does not read", where) from None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1 << 62 if isinstance(value, int) else math.isfinite(value)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(
        type(value), type(value).__name__
    )
