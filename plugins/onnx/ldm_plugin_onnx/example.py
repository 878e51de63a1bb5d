"""One made-up row of the inputs of a recipe's conditioners, for the forms of calls and never for their contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_core.data.collate import collate
from ldm_core.data.inputs.forms import form_of, geometries, taken_sizes
from ldm_core.data.sizes import default_sizes
from ldm_core.errors import ConfigError
from ldm_core.recipe.recipe import Recipe


def example_batch(recipe: Recipe) -> Mapping[str, Any]:
    """A collated batch of one row with all keys of the conditioners. ConfigError for a key of no known form."""
    sizes = default_sizes(recipe.image_size, recipe.reads)
    row = {key: sizes[key] if key in sizes else _value(recipe, key) for key in recipe.reads}
    return collate([row], geometries(recipe)) if row else {}


def _value(recipe: Recipe, key: str) -> Any:
    form, draw = form_of(recipe, key), np.random.default_rng(0)
    height, width = taken_sizes(recipe).get(key, recipe.image_size)
    if form.geometry == "image":
        return draw.integers(0, 256, (recipe.image_channels, height, width), dtype=np.uint8)
    if form.geometry == "map":
        return (np.arange(height * width).reshape(height, width) % 2).astype(np.int64)
    if form.example is None:
        raise ConfigError(
            f"onnx: nothing says what values of the key '{key}' look like, and an export needs one; its conditioner's "
            "plugin gives an example in key_forms"
        )
    if not isinstance(form.example, list):
        return form.example
    array = np.asarray(form.example)
    if array.dtype.kind == "f":
        return array.astype(np.float32) + (0 if form.geometry else 1)  # no vector of zeros
    return array.astype(np.int64) if array.dtype.kind in "iu" else form.example
