"""Axes of a grid of samples: a setting each, with its values. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ldm_core.config.documents import parse_yaml
from ldm_core.errors import ConfigError, clean, quoted

TEXTS = ("prompt", "negative", "class")
"""Axes of texts, taken as they are written."""
ARGUMENTS = (*TEXTS, "seed", "steps", "guidance", "strength", "preset")
"""Axes for arguments of a sampling; all others are settings by their paths, such as ``sampler.eta``."""
MOST_AXES = 3
MOST_CELLS = 2_000
_REFUSED = {
    "images": "each cell holds the same images; give `images`",
    "batch": "the batch changes the speed alone; give `batch`",
    "image_size": "all cells are of one size; make a grid of each size",
}


@attrs.frozen
class Axis:
    """A setting and its values, in their order."""

    name: str
    values: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, values: Any) -> Axis:
        """Check both; ConfigError for a name of no setting, for no values, and for one there twice."""
        where = f"grid: {clean(name, 60)}"
        if why := _REFUSED.get(name):
            raise ConfigError(f"{where}: {why}")
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"{where}: no name of a setting; expected one such as guidance, steps or sampler.eta")
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise ConfigError(f"{where}: expected a list of values, got {quoted(values)}")
        found = tuple(values)
        if not found:
            raise ConfigError(f"{where}: no values; give one or several")
        if twice := [value for i, value in enumerate(found) if value in found[:i]]:
            raise ConfigError(
                f"{where}: {clean(in_words(twice[0]), 60)} is there twice; each value is one line of cells"
            )
        if name == "seed" and (wrong := [v for v in found if type(v) is not int or v < 0]):
            raise ConfigError(f"{where}: expected whole numbers, 0 or more, got {quoted(wrong[0])}")
        if name == "preset" and (wrong := [v for v in found if not isinstance(v, str)]):
            raise ConfigError(f"grid: preset: expected names, got {quoted(wrong[0])}")
        if name in TEXTS and (wrong := [v for v in found if not isinstance(v, str | int)]):
            raise ConfigError(f"{where}: expected texts, got {quoted(wrong[0])}")
        return cls(name, found)

    @classmethod
    def read(cls, text: str) -> Axis:
        """Read ``guidance=1,3,7``, or ``prompt=[a cat, "red, or blue"]`` with a list in YAML's form."""
        name, equals, values = text.partition("=")
        name, values = name.strip(), values.strip()
        if not equals or not name or not values:
            raise ConfigError(f"grid '{clean(text, 100)}': expected KEY=VALUE,VALUE such as guidance=1,3,7")
        if values.startswith("["):
            listed = parse_yaml(values, f"grid: {clean(name, 60)}")
            as_text = name in TEXTS and isinstance(listed, list)
            return cls.of(name, [str(v) for v in listed] if as_text else listed)
        pieces = [piece.strip() for piece in values.split(",")]
        if "" in pieces:
            raise ConfigError(f"grid '{clean(text, 100)}': a value is empty; expected {name}=VALUE,VALUE")
        whole = name in TEXTS
        if name == "seed":
            pieces = [number for piece in pieces for number in _range(piece)]
        return cls.of(name, [p if whole else parse_yaml(p, f"grid: {clean(name, 60)}") for p in pieces])

    def labels(self) -> list[str]:
        """The heading of each line of cells: ``guidance = 3``."""
        return [f"{self.name} = {in_words(value)}" for value in self.values]


def _range(text: str) -> list[str]:
    """The numbers of ``7..10``, both ends; another text as it is."""
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and len(last) < 19):
        return [text]
    if not int(first) <= int(last) < int(first) + MOST_CELLS:
        raise ConfigError(f"grid: seed: '{clean(text, 60)}' is no range of up to {MOST_CELLS:,} seeds, lower first")
    return [str(number) for number in range(int(first), int(last) + 1)]


def in_words(value: Any) -> str:
    """A value as a heading, and a file's name, write it."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {in_words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_words, value))}]"
    return clean(value, 300)


def axes_of(given: Mapping[str, Any] | Sequence[Axis], prompts: str | Sequence[str] | None) -> tuple[Axis, ...]:
    """The axes of a grid: columns, rows, pages. Several `prompts` are one more, behind the `given` ones.

    ConfigError for none, for more than three, and for more than :data:`MOST_CELLS` cells.
    """
    axes = [Axis.of(str(k), v) for k, v in given.items()] if isinstance(given, Mapping) else list(given)
    names = [axis.name for axis in axes]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ConfigError(f"grid: '{twice[0]}' is there twice; give all of its values at once")
    texts = [prompts] if isinstance(prompts, str) else list(prompts or ())
    if texts and "prompt" in names:
        raise ConfigError("grid: the prompts are an axis, and `prompts` are given as well; give one of them")
    if len(texts) > 1:
        axes.append(Axis.of("prompt", list(dict.fromkeys(texts))))
    if not 1 <= len(axes) <= MOST_AXES:
        found = f"got {', '.join(axis.name for axis in axes)}" if axes else "got none"
        raise ConfigError(f"grid: expected one to three axes (columns, rows, pages; several prompts are one), {found}")
    if (count := math.prod(len(axis.values) for axis in axes)) > MOST_CELLS:
        raise ConfigError(f"grid: {count:,} cells; at most {MOST_CELLS:,} are drawn")
    return tuple(axes)
