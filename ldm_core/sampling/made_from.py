"""The inputs of a picture in words of bounded length, for its metadata and beneath it on a sheet.

Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_core.contracts import SIZE_KEYS
from ldm_core.data.class_names import shown
from ldm_core.errors import clean
from ldm_core.recipe.recipe import Recipe

_LONGEST = 4000  # characters of a value
_MOST = 100  # boxes or classes that are written out

Names = Mapping[str, Sequence[str]]


def described(row: Mapping[str, Any], class_names: Names, keys: Sequence[str]) -> dict[str, str]:
    """Describe an image's inputs, key -> text, for `keys`; its caption is in the metadata as ``prompt`` already.

    Classes by name and index, boxes as JSON, a label map by its size and classes, pictures and vectors by shape and the
    hash of their values.
    """
    out: dict[str, str] = {}
    for key, value in row.items():
        if key in keys and key != "caption":
            name = f"input_{key}" if key in _TAKEN else key
            out[clean(name, 79)] = clean(_text(key, value, class_names), _LONGEST)
    return out


_TAKEN = (
    "prompt",
    "seed",
    "steps",
    "sampler",
    "time_grid",
    "guidance",
    "guides",
    "adapters",
    "recipe",
    "software",
    "negative",
    "preset",
    "preset_changed",
    "precision",
    "runtime",
)
"""Keys of a picture's metadata beside its inputs."""


def adapters_in_words(recipe: Recipe) -> dict[str, str]:
    """The adapters of a picture's model for its metadata: each by name, with its strength and the hash of its file."""
    rows = []
    for part in recipe.adapters:
        scale = "" if part.scale is None else f" scale {part.scale:g}"
        rows.append(part.name + scale + (f" sha256 {part.sha256}" if part.sha256 else ""))
    return {"adapters": "; ".join(rows)} if rows else {}


def _text(key: str, value: Any, class_names: Names) -> str:
    names = tuple(class_names.get(key, ()))
    if key == "class_label" and isinstance(value, int | np.integer):
        return shown(int(value), names)
    if isinstance(value, str | int | float | np.number):
        return str(value)
    array = value if isinstance(value, np.ndarray) else _array(value)
    if array is None:
        return str(value)
    if key == "box_labels" and array.ndim == 1 and array.dtype.kind in "iu":
        return _listed([shown(int(n), names) for n in array[:_MOST]], len(array))
    if key in SIZE_KEYS and array.shape == (2,):
        return f"{array[0]:g}, {array[1]:g}"
    if key == "boxes" and array.ndim == 2:
        some = json.dumps([[round(float(v), 4) for v in box] for box in array[:_MOST]])
        return some + (f" and {len(array) - _MOST} more" if len(array) > _MOST else "")
    if array.ndim == 2 and array.dtype.kind in "iu":
        found = [int(n) for n in np.unique(array[: 1 << 14])]
        classes = _listed([shown(n, names) for n in found[:_MOST]], len(found))
        return f"map of {array.shape[0]}x{array.shape[1]}, classes {classes}; {_hash(array)}"
    kind = "picture" if array.dtype == np.uint8 and array.ndim == 3 else f"array of {array.dtype}"
    return f"{kind}, {'x'.join(map(str, array.shape))}; {_hash(array)}"


def _array(value: Any) -> np.ndarray | None:
    torch = sys.modules.get("torch")  # a caller with a tensor has imported it
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        return None
    return None if array.dtype.kind in "OUS" else array


def _listed(words: Sequence[str], count: int) -> str:
    return ", ".join(words) + (f" and {count - len(words)} more" if count > len(words) else "")


def _hash(array: np.ndarray) -> str:
    return "sha256 " + hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]


def caption(row: Mapping[str, Any], class_names: Names) -> str:
    """Write the line beneath a picture without a prompt: the name of its class, or of the classes of its boxes."""
    for key in ("class_label", "box_labels"):
        if key in row:
            names = tuple(class_names.get(key, ()))
            labels = np.atleast_1d(np.asarray(row[key])).tolist()
            words = [names[n] if isinstance(n, int) and 0 <= n < len(names) else str(n) for n in labels[:_MOST]]
            return clean(", ".join(dict.fromkeys(words)), 240)
    return ""
