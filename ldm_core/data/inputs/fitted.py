"""Inputs brought to a model's size, with a note on each loss. No torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ldm_core.data.fit_notes import input_notes, multiple_of
from ldm_core.data.inputs.forms import taken_sizes

KNOWN = {"image": "image", "segmentation": "map", "mask": "map"}
"""Keys of pictures and maps, whatever the data says."""


def from_pictures(inputs: Mapping[str, Any], recipe: Any) -> Mapping[str, Any]:
    """`inputs` with arrays in the places of PIL images under known keys, at the recipe's size.

    DataError for pictures and maps of two sizes. Arrays stay as they are.
    """
    pil = sys.modules.get("PIL.Image")  # a caller with a picture has imported it
    given = {k: v for k, v in inputs.items() if k in KNOWN and pil is not None and isinstance(v, pil.Image)}
    if not given:
        return inputs
    from ldm_core.data import images
    from ldm_core.data.geometry import fit

    arrays: dict[str, Any] = {"name": "inputs"}
    for key, value in given.items():
        if KNOWN[key] == "map":
            arrays[key] = images.levels_of(value, key, f"inputs['{key}']")
        else:
            flat = images.flat(value)
            flat = flat if flat.mode in ("L", "RGB") else flat.convert("RGB")
            arrays[key] = images.to_channels(images.to_planes(flat), recipe.image_channels)
    size, rule = recipe.image_size, recipe.data.fit
    small = {k: v for k, v in arrays.items() if k in given and v.shape[-2:] == taken_sizes(recipe).get(k)}
    rest = {k: v for k, v in arrays.items() if k not in small}
    found = {**fit(rest, {k: KNOWN[k] for k in rest if k in KNOWN}, size, rule), **small}
    return {**inputs, **{key: found[key] for key in given}}


def fit_all(
    inputs: Mapping[str, Any], recipe: Any, keys: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Call :func:`fit_inputs` for a recipe; return a line for each picture with a loss by it."""
    sizes: dict[str, tuple[int, int]] = {}
    small, size, rule = taken_sizes(recipe), recipe.image_size, recipe.data.fit
    out = fit_inputs(inputs, size, rule, keys, small, sizes)
    if not sizes:
        return out, []
    return out, input_notes(sizes, size, rule, multiple=multiple_of(recipe), taken=small)


def fit_inputs(
    inputs: Mapping[str, Any],
    size: tuple[int, int],
    rule: str,
    keys: Mapping[str, str] | None = None,
    taken: Mapping[str, tuple[int, int]] | None = None,
    sizes: dict[str, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Bring pictures and maps to the model's image size (h, w), as its data was.

    `keys`: key -> geometry, if the data says it; ``image``, ``segmentation`` and ``mask`` are known without. `taken`:
    key -> another size taken as it is (:func:`taken_sizes`). `sizes` is told the given sizes (h, w).
    """
    known = {**KNOWN, **(keys or {})}
    out = dict(inputs)
    for key, value in inputs.items():
        if known.get(key) not in ("image", "map") or not hasattr(value, "shape"):
            continue
        if sizes is not None:
            sizes[key] = tuple(value.shape[-2:])
        if tuple(value.shape[-2:]) not in (tuple(size), (taken or {}).get(key)):
            from ldm_core.data.geometry import fit

            out[key] = fit({key: value}, {key: known[key]}, size, "pad" if rule == "pad" else "crop")[key]
    return out
