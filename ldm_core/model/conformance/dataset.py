"""The check of a data set's first example before a run. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldm_core.catalog import Catalog
from ldm_core.data.sizes import paired
from ldm_core.errors import DataError, quoted
from ldm_core.model.conformance.breaches import breach, inside, named, shown
from ldm_core.recipe.recipe import MixturePart, Recipe

GEOMETRIES = ("image", "map", "boxes", "per_box", "value")


def hold_data(dataset: Any, recipe: Recipe, catalog: Catalog) -> None:
    """:class:`~ldm_core.errors.ContractError` if the first example of `dataset` is not as its `keys` say; an unreadable
    one is told elsewhere. Members of a mixture are not told apart, and are left alone."""
    if isinstance(recipe.dataset, MixturePart):
        return
    part = named(recipe.dataset, catalog)
    if wrong := {key: kind for key, kind in dataset.keys.items() if kind not in GEOMETRIES}:
        raise breach(part, "keys", f"is {quoted(wrong)}", f"key -> one of {', '.join(GEOMETRIES)}")
    with inside(part, "select"):
        view = paired(dataset, recipe.asked(dataset.keys))
    try:
        with inside(part, "__getitem__"):
            example = view[0] if len(view) else None
    except DataError:
        return
    if example is None:
        return
    for problem in _problems(example, view.keys):
        seen, _, expected = problem.partition("; expected: ")
        raise breach(part, "__getitem__", seen, expected, "hand out what `keys` declares, or declare what is there")


def _problems(example: Any, keys: Mapping[str, str]) -> Iterator[str]:
    if not isinstance(example, Mapping):
        yield f"gave {type(example).__name__}; expected: a mapping of the keys {', '.join(keys)}"
        return
    if lacking := [key for key in keys if key not in example]:
        yield f"gave an example without '{lacking[0]}'; expected: the keys {', '.join(keys)}"
        return
    boxes = [len(example[key]) for key, kind in keys.items() if kind == "boxes" and hasattr(example[key], "__len__")]
    for key, kind in keys.items():
        value = example[key]
        if kind == "image" and not _is_picture(value):
            yield f"gave '{key}' as {shown(value)}; expected: uint8 (c, H, W) with 1 or 3 channels, or a PIL image"
        elif kind == "map" and not (isinstance(value, np.ndarray) and value.ndim >= 2 and value.dtype.kind in "biu"):
            yield f"gave '{key}' as {shown(value)}; expected: whole numbers (..., H, W)"
        elif kind == "boxes" and not (np.ndim(value) == 2 and np.shape(value)[1] == 4) and np.size(value):
            yield f"gave '{key}' as {shown(value)}; expected: (N, 4) of x, y, w, h in [0, 1]"
        elif kind == "per_box" and boxes and (not hasattr(value, "__len__") or len(value) != boxes[0]):
            yield f"gave '{key}' as {shown(value)} beside {boxes[0]} boxes; expected: ({boxes[0]}, ...), one a box"


def _is_picture(value: Any) -> bool:
    if hasattr(value, "getbands"):
        return True
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[0] in (1, 3)
