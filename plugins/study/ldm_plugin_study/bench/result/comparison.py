"""Two measurements beside each other. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ldm_core.config.structure import unstructure
from ldm_core.errors import ConfigError, quoted
from ldm_plugin_study.bench.result.document import Document, Row
from ldm_plugin_study.bench.result.table import aligned, amount, duration

_SPEED = (
    *("image_size", "image_channels", "first_stage", "conditioners", "adapters", "denoiser", "schedule", "objective"),
    *("parameterization", "time_grid", "sampler", "guidance", "dataset", "data"),
)
"""Keys of a recipe with an effect on speed."""
_PLACES = ("weights", "sha256", "name")
"""Keys of a part without one."""
_MOST = 12


@attrs.frozen(kw_only=True)
class Change:
    """One component at one precision in two measurements. `ratio` is old seconds by new ones, above 1 = faster now;
    `least` and `most` are its bounds for the middle halves of the rounds."""

    component: str
    precision: str
    old: float
    new: float
    ratio: float
    least: float
    most: float
    memory: float | None
    """New bytes by old ones; None if either was not measured."""

    @property
    def verdict(self) -> str:
        """``faster`` or ``slower`` if the middle halves of the rounds do not meet, else ``same``."""
        if self.least > 1:
            return "faster"
        return "slower" if self.most < 1 else "same"


@attrs.frozen(kw_only=True)
class Comparison:
    """All rows common to both measurements; names of the others; the other versions of programs, in words."""

    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    software: tuple[str, ...]
    differences: tuple[str, ...] = ()
    """The differences of machine, recipe and settings, for a caller who compares in spite of them."""

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        out = dict(unstructure(self))
        out["changes"] = [{**unstructure(c), "verdict": c.verdict} for c in self.changes]
        return out


def compare(old: Document, new: Document, *, anyway: bool = False) -> Comparison:
    """Compare two measurements.

    Raises :class:`ConfigError` with all differences if they are of another machine, recipe or batch, unless `anyway`.
    Other programs on the same machine are no obstacle: they are said.
    """
    found = tuple(differences(old, new))
    if found and not anyway:
        few = [*found[:_MOST], *([f"and {len(found) - _MOST} more"] if len(found) > _MOST else [])]
        lines = "\n".join(few)
        raise ConfigError(f"against: these measurements are not of the same thing; `anyway` compares them\n{lines}")
    pairs = [(row, old.row(row.component, row.precision)) for row in new.rows]
    lacking = [(row, "only now") for row, before in pairs if before is None]
    lacking += [(row, "only before") for row in old.rows if new.row(row.component, row.precision) is None]
    return Comparison(
        changes=tuple(_change(before, now) for now, before in pairs if before is not None),
        missing=tuple(f"{row.component} {row.precision}".rstrip() + f": {when}" for row, when in lacking),
        software=tuple(_differing(unstructure(old.software), unstructure(new.software), "")),
        differences=found,
    )


def _change(old: Row, new: Row) -> Change:
    per_old, per_new = old.median / old.amount, new.median / new.amount
    (old_low, old_high), (new_low, new_high) = old.quartiles, new.quartiles
    scale = new.amount / old.amount
    both = old.memory and new.memory
    return Change(
        component=new.component,
        precision=new.precision,
        old=per_old,
        new=per_new,
        ratio=per_old / per_new,
        least=scale * old_low / new_high,
        most=scale * old_high / new_low,
        memory=new.memory / old.memory if both and new.memory and old.memory else None,
    )


def differences(old: Document, new: Document) -> Iterator[str]:
    """The differences of two measurements in the way of a comparison, a line each: `key: old one -> new one`."""
    yield from _differing(unstructure(old.machine), unstructure(new.machine), "machine.")
    recipes = [{key: _bare(d.recipe.get(key)) for key in _SPEED} for d in (old, new)]
    yield from _differing(recipes[0], recipes[1], "recipe.")
    for name in ("batch", "sampler_steps", "clock"):
        before, now = getattr(old.settings, name), getattr(new.settings, name)
        if before != now:
            yield f"settings.{name}: {before} -> {now}"


def _bare(value: Any) -> Any:
    """A part of a recipe without its places; a list by the names of its parts."""
    if isinstance(value, Mapping):
        return {key: _bare(each) for key, each in value.items() if key not in _PLACES}
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        return {str(each.get("name") or each.get("use") or i): _bare(each) for i, each in enumerate(value)}
    return value


def _differing(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differing(old.get(key), new.get(key), f"{path}{key}.")
    elif _plain(old) != _plain(new):
        yield f"{path.rstrip('.')}: {_said(old)} -> {_said(new)}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("use", f"{len(value)} settings"))
    return quoted(value, 80) if isinstance(value, str) else "nothing" if value is None else str(value)


def lines(comparison: Comparison) -> list[str]:
    """The comparison as a table for a reader."""
    rows = [("COMPONENT", "", "BEFORE", "NOW", "TIMES AS FAST", "HALF OF THE ROUNDS", "MEMORY", "")]
    for change in comparison.changes:
        rows.append(
            (
                change.component,
                change.precision,
                _each(change, change.old),
                _each(change, change.new),
                f"{change.ratio:.3f}",
                f"{change.least:.3f} to {change.most:.3f}",
                f"x {change.memory:.2f}" if change.memory is not None else "",
                change.verdict,
            )
        )
    notes = [f"not in both: {name}" for name in comparison.missing]
    notes += [f"another program: {line}" for line in comparison.software]
    notes += [f"not the same: {line}" for line in comparison.differences]
    return [*aligned(rows), *notes]


def _each(change: Change, seconds: float) -> str:
    return f"{amount(1 / seconds)}B/s" if change.component == "storage" else f"{duration(seconds)} an image"
