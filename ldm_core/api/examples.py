"""Examples as people hold them in Python, made what a data set hands out: pictures uint8 (c, H, W), arrays, texts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.data.geometry import GEOMETRIES, shape_of
from ldm_core.data.images import flat, to_planes
from ldm_core.errors import DataError, LDMError, clean, quoted

ALIASES: Mapping[str, str] = {"class": "class_label", "label": "class_label", "text": "caption"}
_CHANNELS = (1, 3, 4)


def read(data: Any, index: int) -> dict[str, Any]:
    """Example `index` of a list or a map-style data set, each value in its form.

    A mapping, or a pair of a picture and a class (number) or caption (text). Raises DataError naming the example, the
    key, and what is allowed.
    """
    where = f"data[{index}]"
    try:
        item = data[index]
    except LDMError:
        raise
    except Exception as error:  # whatever a user's own data set raises
        raise DataError(f"{where}: reading it raised {type(error).__name__}: {clean(error)}") from error
    if isinstance(item, list | tuple) and len(item) == 2:
        item = {"image": item[0], "caption" if isinstance(item[1], str) else "class_label": item[1]}
    if not isinstance(item, Mapping):
        raise DataError(
            f"{where}: expected a mapping such as {{'image': picture, 'caption': text}}, or a pair of a picture and a "
            f"class or caption, got {type(item).__name__}"
        )
    example: dict[str, Any] = {}
    for key, value in item.items():
        name = ALIASES.get(key, key)
        if not isinstance(name, str) or name in example:
            raise DataError(f"{where}: the key {quoted(key)} " + ("comes twice" if name in example else "is no text"))
        example[name] = _FORMS.get(name, _any)(value, f"{where}['{key}']")
    if "image" not in example:
        raise DataError(f"{where}: has no 'image', only {', '.join(map(repr, item)) or 'nothing'}")
    return example


def geometry_of(key: str, value: Any, size: tuple[int, int]) -> str:
    """The geometry of `key`: the known one, or that of its first value beside a picture of `size` (H, W)."""
    if key in GEOMETRIES:
        return GEOMETRIES[key]
    if not isinstance(value, np.ndarray) or value.ndim < 2 or shape_of(value) != size:
        return "value"
    if value.dtype == np.uint8 and value.ndim == 3 and len(value) in (1, 3):
        return "image"
    return "map" if value.dtype.kind in "biu" else "value"


def picture(value: Any, where: str) -> NDArray[np.uint8]:
    """A PIL image, uint8 (H, W), (H, W, c) or (c, H, W), or floats in [0, 1], array or tensor -> uint8 (c, H, W).

    Transparency goes on white; where both ends could be channels, a tensor has them first and an array last.
    """
    from PIL import Image

    if not isinstance(value, Image.Image):
        array, first = _array(value), _is_tensor(value)
        if array is None or array.ndim not in (2, 3) or 0 in array.shape:
            raise DataError(f"{where}: expected {_PICTURE}, got {_seen(value)}")
        array = _bytes(array, where)
        if array.ndim == 3 and array.shape[0] in _CHANNELS and (first or array.shape[2] not in _CHANNELS):
            array = array.transpose(1, 2, 0)
        if array.ndim == 3 and array.shape[2] not in _CHANNELS:
            raise DataError(f"{where}: expected {_PICTURE}, got {_seen(value)}")
        value = Image.fromarray(
            array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else np.ascontiguousarray(array)
        )
    try:
        whole = flat(value)
        return to_planes(whole if whole.mode in ("L", "RGB") else whole.convert("RGB"))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's, of a file that it opened and cannot read
        raise DataError(f"{where}: its picture cannot be read ({clean(error)})") from None


_PICTURE = "a picture (PIL, uint8 (H, W, c) or (c, H, W) with 1, 3 or 4 channels, or floats in [0, 1])"


def _bytes(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    low, high = (float(array.min()), float(array.max())) if array.dtype.kind in "fiu" else (0.0, 0.0)
    if array.dtype.kind != "f" or not (low >= 0 and high <= 1):
        span = f" from {low:g} to {high:g}" if array.dtype.kind in "fiu" else ""
        raise DataError(
            f"{where}: its values are {array.dtype}{span}; expected uint8, or floats in [0, 1] (take a normalisation "
            "out: the core does its own)"
        )
    return (array * 255 + 0.5).astype(np.uint8)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: expected a text, got {_seen(value)}")
    return value


def _label(value: Any, where: str) -> int | str:
    if isinstance(value, str):
        return value
    array = _array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "iu" or int(array.reshape(())) < 0:
        raise DataError(f"{where}: expected a class, as a number from 0 on or a name, got {_seen(value)}")
    return int(array.reshape(()))


def _labels(value: Any, where: str) -> Any:
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return tuple(value)
    array = np.asarray(()) if isinstance(value, list | tuple) and not value else _array(value)
    if array is None or array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.min() < 0)):
        raise DataError(f"{where}: expected a class a box, all numbers from 0 on or all names, got {_seen(value)}")
    return array.astype(np.int64)


def _boxes(value: Any, where: str) -> NDArray[np.float32]:
    array = np.zeros((0, 4)) if isinstance(value, list | tuple) and not value else _array(value)
    right = array is not None and array.ndim == 2 and array.shape[1] == 4 and array.dtype.kind in "fiu"
    if array is None or not right or (array.size and not (array.min() >= 0 and array.max() <= 1)):
        raise DataError(f"{where}: expected boxes (N, 4) as x, y, w, h, shares of the picture, got {_seen(value)}")
    return array.astype(np.float32)


def _map(value: Any, where: str) -> NDArray[Any]:
    array = _array(value)
    if array is None or array.ndim != 2 or array.dtype.kind not in "biu":
        raise DataError(f"{where}: expected whole numbers (H, W), got {_seen(value)}")
    return array.astype(np.uint8) if array.dtype == bool else array


def _mask(value: Any, where: str) -> NDArray[Any]:
    """Holes are 128 and above: True is 255."""
    array = _array(value)
    return _map(array * np.uint8(255) if array is not None and array.dtype == bool else value, where)


def _vector(value: Any, where: str) -> NDArray[np.float32]:
    array = _array(value)
    if array is None or array.ndim not in (1, 2) or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise DataError(f"{where}: expected finite numbers (D,) or (L, D), got {_seen(value)}")
    return array.astype(np.float32)


def _any(value: Any, where: str) -> Any:
    """A value of a key that only the user's own parts know."""
    from PIL import Image

    if isinstance(value, str | bool | int | float | np.number):
        return value
    if isinstance(value, Image.Image):
        return picture(value, where)
    if (array := _array(value)) is not None and array.dtype.kind in "biuf":
        return array
    raise DataError(f"{where}: expected a picture, an array, a tensor, a number or a text, got {_seen(value)}")


_FORMS: Mapping[str, Callable[[Any, str], Any]] = {
    "image": picture,
    "caption": _text,
    "name": _text,
    "class_label": _label,
    "box_labels": _labels,
    "boxes": _boxes,
    "segmentation": _map,
    "mask": _mask,
    "embedding": _vector,
}


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def _array(value: Any) -> NDArray[Any] | None:
    """Numbers as an array; None for what has none."""
    if _is_tensor(value):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # a ragged list; bfloat16, which numpy lacks
        return None
    return array if array.dtype.kind in "biuf" else None


def _seen(value: Any) -> str:
    array = value if isinstance(value, str | bytes) else _array(value)
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) and array.ndim else quoted(value)
