"""A recipe as a caller in Python holds it: plain values, from a file, from a mapping, changed part by part."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents, overrides
from ldm_core.errors import ConfigError, quoted
from ldm_core.recipe import recipe as resolved
from ldm_core.recipe import shipped
from ldm_core.recipe.check import check
from ldm_core.recipe.keys import SECTIONS, SINGLE
from ldm_core.recipe.resolve import resolve
from ldm_core.weights.convert import finder

_SHOWN = ("first_stage", "conditioners", "denoiser", "sampler", "guidance", "dataset")


class Recipe:
    """The settings of a run as plain values, as a recipe file has them. Nothing is checked before :meth:`complete`, or
    before a run: ``Recipe({"image_size": 32, "first_stage": "vq_f4"})``."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        if not isinstance(values, Mapping | None):
            raise ConfigError(f"recipe: expected a mapping such as {{'first_stage': 'vq_f4'}}, got {quoted(values)}")
        self._values: dict[str, Any] = deepcopy(dict(values or {}))

    @classmethod
    def of(cls, given: Recipe | resolved.Recipe | Mapping[str, Any] | str | os.PathLike[str] | None) -> Recipe:
        """Take a recipe in any form: a file or a shipped one (:meth:`read`), a mapping, ``pipeline.recipe``; None is
        the shipped ``laptop``."""
        if isinstance(given, Recipe):
            return given
        if isinstance(given, resolved.Recipe):
            return cls(given.plain())
        if given is None or isinstance(given, str | os.PathLike):
            return cls.read(shipped.LAPTOP if given is None else given)
        return cls(given)

    @classmethod
    def read(cls, name_or_url: str | os.PathLike[str]) -> Recipe:
        """A shipped recipe by name, or a YAML file by path or URL; ConfigError or StorageError if there is none."""
        return cls(shipped.load_plain(os.fspath(name_or_url)))

    def values(self) -> dict[str, Any]:
        """The plain values, the caller's to edit."""
        return deepcopy(self._values)

    def save(self, url: str | os.PathLike[str]) -> None:
        """Write the recipe as a YAML file to a path or URL."""
        storage.atomic_write(os.fspath(url), documents.dump_yaml(self._values).encode())

    def changed(self, *lines: str, **parts: Any) -> Recipe:
        """Another recipe, with `parts` by their keys and overrides as on the command line on top.

        ``recipe.changed("trainer.steps=100", first_stage="vq_f4", sample={"steps": 20})``: a section, and a part of the
        same name, keep the other settings that they have; another part starts from its own defaults.
        """
        plain = self.values()
        for key, value in parts.items():
            plain[key] = _merged(plain.get(key), deepcopy(value)) if key in (*SINGLE, *SECTIONS) else deepcopy(value)
        overrides.apply_overrides(plain, lines, SINGLE)
        return Recipe(plain)

    def complete(self, catalog: Catalog | None = None) -> Recipe:
        """The same with every field of every part, checked: ConfigError with all mistakes. Opens no data."""
        catalog = catalog or Catalog.discover()
        found = resolve(self._values, catalog, find=finder(catalog))
        check(found)
        return Recipe(found.plain())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        said = {key: _use(self._values[key]) for key in _SHOWN if self._values.get(key)}
        more = len(self._values) - len(said)
        shown = [f"{key}={use}" for key, use in said.items()] + ([f"and {more} more"] if more else [])
        return f"Recipe({', '.join(shown)})"


def _use(part: Any) -> str:
    if isinstance(part, list | tuple):
        return "+".join(map(_use, part))
    return str(part.get("use", "...")) if isinstance(part, Mapping) else str(part)


def _merged(before: Any, value: Any) -> Any:
    """A part or section set anew over the one `before`."""
    own = before if isinstance(before, Mapping) else {"use": before} if isinstance(before, str) else {}
    if isinstance(value, str):
        return before if own.get("use") == value else value
    if isinstance(value, Mapping) and value.get("use", own.get("use")) == own.get("use"):
        return {**own, **value}
    return value
