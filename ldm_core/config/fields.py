"""Fields of configs with bounds, choices and help, for the core and for plugins."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypedDict, Unpack, get_args, get_type_hints

import attrs

from ldm_core.errors import quoted


class Marks(TypedDict, total=False):
    """The marks of a field, kept in its metadata.

    `changes_training`: False if it may change within a run, because the training stays the same, to rounding. `since`:
    the version after 0.1.0 that brought it; at its default it is in no identity, so older runs stay as they are.
    `place`: it names one, never taken from a weights file (:mod:`ldm_core.recipe.places`); ``"whether"``: its presence
    alone is. `same` and `later` are the former names of ``changes_training=False`` and ``since``.
    """

    changes_training: bool
    since: str
    place: bool | str
    same: bool
    later: bool


def field(
    default: Any,
    help: str,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    **marks: Unpack[Marks],
) -> Any:
    """A field with its help text, its `marks` and, if given, its limits (`above` is exclusive).

    No number is beyond :data:`MOST`. Raises TypeError for a mark of another name.
    """
    if unknown := marks.keys() - Marks.__annotations__.keys():
        raise TypeError(f"field: no mark named {', '.join(sorted(unknown))}")

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None or isinstance(value, str | bool):
            return
        if minimum is not None and value < minimum:
            raise ValueError(f"{attribute.name}: expected at least {minimum}, got {quoted(value)}")
        if above is not None and value <= above:
            raise ValueError(f"{attribute.name}: expected more than {above}, got {quoted(value)}")
        most = MOST if maximum is None else maximum
        if value > most:
            raise ValueError(f"{attribute.name}: expected at most {most:,}, got {quoted(value)}")

    return attrs.field(default=default, metadata={"help": help, **marks}, validator=check)


MOST = 10**15
"""No count and no number of bytes of a run is larger; beyond it are slips and attacks."""


def later_defaults(section: type) -> dict[str, Any]:
    """The fields of a section added after 0.1.0, with their defaults."""
    return {f.name: f.default for f in attrs.fields(section) if f.metadata.get("since") or f.metadata.get("later")}


def inner_configs(config: type) -> dict[str, type]:
    """The fields of a config that hold configs of their own, or lists of them, with the classes of those."""
    kinds = {name: (kind, *get_args(kind)) for name, kind in type_hints(config).items()}
    found = {name: [k for k in some if isinstance(k, type) and attrs.has(k)] for name, some in kinds.items()}
    return {name: some[0] for name, some in found.items() if some}


def spelled(config: type, value: Any) -> Any:
    """`value` for a field of the type `config`: a bare name is short for ``{use: NAME}`` if a field of it is `use`."""
    named = isinstance(value, str) and any(field.name == "use" and field.init for field in attrs.fields(config))
    return {"use": value} if named else value


def type_hints(config: type) -> dict[str, Any]:
    """The types of a config's fields; none where a plugin's annotations do not resolve."""
    try:
        return dict(_type_hints(config))
    except (NameError, TypeError):
        return {}


_type_hints = lru_cache(1024)(get_type_hints)  # a load of a model asks a hundred times, 0.5 ms each


def same_keys(section: type) -> frozenset[str]:
    """The fields of a section open to change within a run: they do not affect the training."""
    marks = {f.name: f.metadata for f in attrs.fields(section)}
    return frozenset(n for n, m in marks.items() if m.get("same") or not m.get("changes_training", True))
