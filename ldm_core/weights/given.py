"""Settings given for foreign weights, checked against the parts' types before a codec computes with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure, unstructure
from ldm_core.errors import CheckpointError, ComponentError, ConfigError, clean, quoted
from ldm_core.recipe.keys import LISTS, SINGLE

_OF_THE_CORE = ("use", "name", "dropout", "train", "weights", "sha256")
"""Keys of a row beside the fields of its component, unless one has a field of this name."""


def require_settings(recipe: Mapping[str, Any], given: Mapping[str, Any], catalog: Catalog) -> None:
    """:class:`ConfigError` with a line for each setting of `given` that its part in `recipe` cannot have; the recipe is
    a codec's answer with `given` on top. Parts that are not installed are left to their own error."""
    if problems := list(_misfits({key: recipe.get(key, value) for key, value in given.items()}, catalog)):
        raise ConfigError(problems)


def require_described(recipe: Mapping[str, Any], where: str, catalog: Catalog) -> None:
    """The same for all of a codec's answer: :class:`CheckpointError`, the setting came with the weights at `where`."""
    if problems := list(_misfits(recipe, catalog)):
        raise CheckpointError(f"{where}: its configuration does not fit the weights: {'; '.join(problems)}")


def _misfits(recipe: Mapping[str, Any], catalog: Catalog) -> Iterator[str]:
    for key, value in recipe.items():
        for path, kind, row in _rows(key, value):
            try:
                _require_part(path, kind, row, catalog)
            except ConfigError as error:
                yield from error.problems
            except ComponentError:
                continue


def require_pixels(given: Mapping[str, Any]) -> None:
    """:class:`ConfigError` where `given` says of an image what is no number of pixels or channels."""
    keys = [key for key in ("image_size", "image_channels") if key in given]
    if problems := [line for key in keys for line in _pixels(key, given[key])]:
        raise ConfigError(problems)


def _rows(key: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    if key in SINGLE and key != "dataset":
        yield key, key, value
    elif key in LISTS and not isinstance(value, list | tuple):
        yield key, LISTS[key], value
    elif key in LISTS:
        yield from ((f"{key}[{i}]", LISTS[key], row) for i, row in enumerate(value))


def _require_part(path: str, kind: str, row: Any, catalog: Catalog) -> None:
    row = {"use": row} if isinstance(row, str) else row
    name = row.get("use") if isinstance(row, Mapping) else None
    if not isinstance(row, Mapping) or (name is None and path not in SINGLE):
        raise ConfigError(f"{path}: expected a component's name or a mapping with 'use: NAME', got {quoted(row)}")
    if not isinstance(name, str) or not name:
        return  # the codec says which part it is
    entry, preset = catalog.get(kind, name)
    base = {} if preset is None else unstructure(preset)
    config = entry.component.config
    fields = {field.name for field in attrs.fields(config)}
    own = {k: v for k, v in row.items() if k in fields or k not in _OF_THE_CORE}
    structure({**base, **own}, config, clean(path))


def _pixels(key: str, value: Any) -> Iterator[str]:
    """The numbers of an image; :mod:`ldm_core.recipe.resolve` holds them to their ranges."""
    numbers = list(value) if key == "image_size" and isinstance(value, list | tuple) else [value]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        example = "64, or [48, 64]" if key == "image_size" else "3"
        yield f"{key}: expected whole numbers such as {example}, got {quoted(value)}"
