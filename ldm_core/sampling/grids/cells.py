"""Cells of a grid: one sampling each, as a call by itself with these settings would make it. Torch-free."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs

from ldm_core.errors import ConfigError, LDMError, clean
from ldm_core.sampling.grids.axes import ARGUMENTS, Axis, in_words
from ldm_core.sampling.result import Sampled


class Sampling(Protocol):
    """A pipeline, as far as a grid needs it."""

    def with_settings(self, settings: Any) -> Any:
        """The same model, sampled otherwise."""

    def stream(self, prompts: Any = None, **arguments: Any) -> Iterator[list[Sampled]]:
        """The images batch by batch; raises at once for wrong arguments."""


@attrs.frozen(eq=False)
class Cell:
    """One cell: its `place` (page, row, column), its `values` by the axes' names, and its sampling."""

    place: tuple[int, int, int]
    values: Mapping[str, Any]
    pipeline: Any
    prompts: str | Sequence[str] | None
    arguments: Mapping[str, Any]

    def begun(self, **more: Any) -> Iterator[list[Sampled]]:
        """The batches of the cell; its errors are raised at once, with its values named."""
        try:
            return iter(self.pipeline.stream(self.prompts, **{**self.arguments, **more}))
        except ConfigError as error:
            raise ConfigError([f"grid, {self.named()}: {line}" for line in error.problems]) from None
        except LDMError as error:
            raise type(error)(f"grid, {self.named()}: {error}") from None

    def named(self) -> str:
        """The cell's values in words."""
        return ", ".join(f"{name} = {clean(in_words(value), 60)}" for name, value in self.values.items())


def cells_of(
    pipeline: Sampling, axes: Sequence[Axis], prompts: str | Sequence[str] | None, arguments: Mapping[str, Any]
) -> list[Cell]:
    """The cells page by page, row by row. ConfigError for an unknown setting, or a value out of its range."""
    lines = [*(range(len(axis.values)) for axis in axes), *[range(1)] * (3 - len(axes))]
    made: dict[str, Any] = {}
    cells = []
    for page, row, column in itertools.product(*reversed(lines)):
        at = (column, row, page)
        values = {axis.name: axis.values[place] for axis, place in zip(axes, at, strict=False)}
        settings = _settings(values)
        if (key := repr(settings)) not in made:
            made[key] = pipeline.with_settings(settings) if settings else pipeline
        given = _arguments(arguments, values, prompts)
        cells.append(Cell((page, row, column), values, made[key], values.get("prompt", prompts), given))
    return cells


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of settings, nested as in a recipe; a part's name stands beside its own settings."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        if path in ARGUMENTS and not (path == "guidance" and isinstance(value, str)):
            continue
        *outer, last = path.split(".")
        node = found
        for name in outer:
            inner = node.setdefault(name, {})
            if not isinstance(inner, dict):  # the part's bare name
                inner = node[name] = {"use": inner}
            node = inner
        if isinstance(node.get(last), dict) and isinstance(value, str):
            node[last] = {"use": value, **node[last]}
        else:
            node[last] = value
    return found


def _arguments(given: Mapping[str, Any], values: Mapping[str, Any], prompts: object) -> dict[str, Any]:
    """The arguments of a cell's sampling: those of the grid, with this cell's values in their places."""
    out = dict(given)
    for name in ("seed", "steps", "negative", "preset"):
        if name in values:
            out[name] = values[name]
    if "guidance" in values and not isinstance(values["guidance"], str):
        out["guidance"] = values["guidance"]
    if "class" in values:
        label, inputs = {"class_label": values["class"]}, out.get("inputs") or {}
        out["inputs"] = {**inputs, **label} if isinstance(inputs, Mapping) else [{**row, **label} for row in inputs]
    if "strength" in values:
        if out.get("start") is None:
            raise ConfigError("grid: strength is for a run that begins from a picture; give one with `image`")
        out["start"] = attrs.evolve(out["start"], strength=values["strength"])
    said = prompts or out.get("inputs") or "prompt" in values or out.get("start") is not None
    if not said and out.get("images") is None and (out.get("seed") is None or isinstance(out["seed"], int)):
        out["images"] = 1  # and not the recipe's number of samples
    return out
