"""The choices of a recipe: every setting beside its default, by part, with the part's distribution.

Imports no torch. A part not installed here has no defaults; its settings are shown as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core import storage
from ldm_core.config.structure import unstructure
from ldm_core.errors import LDMError, clean
from ldm_core.recipe.keys import DEFAULTS, LISTS, OWN, SECTIONS, SINGLE, use_of

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog

_CORE_KEYS = {"dropout": 0.0, "train": True, "weights": "", "sha256": ""}
"""Keys beside a part's own that belong to the core, with their defaults."""
_DEPTH, _LONGEST, _MOST = 4, 300, 2000
_ORDER = (
    *("dataset", "data", "first_stage", "stage_objective", "auxiliary_losses", "first_stage_trainer", "conditioners"),
    *("denoiser", "schedule", "parameterization", "objective", "adapters", "trainer", "sampler", "time_grid"),
    *("guidance", "guides", "sample", "metrics", "observers", "storage"),
)


@attrs.frozen
class Choice:
    """One setting: its key below its part, its value and its default in words (None: not known or none)."""

    key: str
    value: str
    default: str | None = None

    @property
    def changed(self) -> bool:
        """True if the value is known to differ from the default."""
        return self.default is not None and self.value != self.default


@attrs.frozen
class Part:
    """A part or section of a recipe. `use`: the component's name, "" of a section; `by`: who brings it, with version,
    "" if unknown here; `summary`: the component in a line."""

    key: str
    kind: str
    use: str
    choices: tuple[Choice, ...]
    by: str = ""
    summary: str = ""
    chosen: bool = False
    """True if another component stands there by default."""


def parts_of(recipe: Mapping[str, Any], catalog: Catalog) -> list[Part]:
    """The parts and sections of a recipe's plain values, in the order of a run; those the core does not know last."""
    own = tuple(Choice(k, _size(recipe[k]), words(v)) for k, v in OWN.items() if k in recipe)
    found = [Part("recipe", "", "", own)]
    others = sorted(k for k in recipe if k not in OWN and k not in _ORDER)
    for key in (*_ORDER, *others):
        if key in recipe:
            found += _parts(key, recipe[key], catalog)
    return found[:_MOST]


def _parts(key: str, value: Any, catalog: Catalog) -> Iterator[Part]:
    if key in SECTIONS and isinstance(value, Mapping):
        yield Part(key, "", "", _choices(value, defaults_of(SECTIONS[key])))
    elif key in SINGLE or key in LISTS:
        rows = value if isinstance(value, list) else [value]
        for number, row in enumerate(rows[:_MOST]):
            named = row.get("name") if isinstance(row, Mapping) else None
            place = f"{key}.{named or number}" if key in LISTS or len(rows) > 1 else key
            yield _part(clean(place, 80), LISTS.get(key, key), row, catalog, chosen=use_of(row) != DEFAULTS.get(key))
    else:
        yield Part(clean(key, 80), "", "", (Choice("", words(value)),))


def _part(key: str, kind: str, row: Any, catalog: Catalog, *, chosen: bool) -> Part:
    use = use_of(row)
    values = {k: v for k, v in row.items() if k != "use"} if isinstance(row, Mapping) else {}
    try:
        entry, preset = catalog.get(kind, use)
        known = defaults_of(entry.component.config) if preset is None else unstructure(preset)
        by, summary = f"{entry.distribution} {entry.version}", entry.component.summary
    except (LDMError, ImportError, TypeError):
        return Part(key, kind, clean(use, 80), _choices(values, {}), chosen=chosen)
    return Part(key, kind, clean(use, 80), _choices(values, {**_CORE_KEYS, "name": use, **known}), by, summary, chosen)


def _size(value: Any) -> str:
    """As :func:`words`; of two equal sides one."""
    square = isinstance(value, list) and len(value) == 2 and value[0] == value[1]
    return words(value[0] if square else value)


def defaults_of(config: type) -> dict[str, Any]:
    """The plain defaults of an attrs class's fields."""
    found = {}
    for field in attrs.fields(config):
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            if default.takes_self:  # type: ignore[union-attr]
                continue
            default = default.factory()  # type: ignore[union-attr]
        if default is not attrs.NOTHING:
            found[field.name] = unstructure(default)
    return found


def _choices(
    values: Mapping[str, Any], defaults: Mapping[str, Any], before: str = "", depth: int = 0
) -> tuple[Choice, ...]:
    found: list[Choice] = []
    for key, value in list(values.items())[:_MOST]:
        name = clean(f"{before}{key}", 120)
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, str) and value.get("use") == default:
            found.append(Choice(name, default, default))
        elif isinstance(value, Mapping) and value and depth < _DEPTH:
            inner = default if isinstance(default, Mapping) else {"use": default} if isinstance(default, str) else {}
            found += _choices(value, inner, f"{name}.", depth + 1)
        else:
            found.append(Choice(name, words(value), words(default) if key in defaults else None))
    return tuple(found)


def words(value: Any, most: int = _LONGEST) -> str:
    """A plain value as a recipe spells it; of a local path the last name alone, as a report is handed on."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        shown = value[:12] + "…" if len(value) == 64 and value.isalnum() else place(value)  # a hash
        return clean(shown, most) if value else "''"
    if isinstance(value, Mapping):
        said = ", ".join(f"{k}: {words(v, 80)}" for k, v in list(value.items())[:40])
        return clean("{" + said + "}", most)
    if isinstance(value, list | tuple):
        more = f", … ({len(value)})" if len(value) > 40 else ""
        return clean("[" + ", ".join(words(v, 80) for v in value[:40]) + more + "]", most)
    return clean(value, most)


def place(text: str) -> str:
    """A URL without secrets; an absolute local path as ``…/name``; any other text as it is."""
    name = storage.without_folders(text)
    if name != text:
        return name if "," in name or "::" in name else f"…/{name}"
    return storage.shown(text) if "://" in text else text


@attrs.frozen
class Difference:
    """A setting unlike in several recipes: its key, its value in each ("" without it) and its default."""

    key: str
    values: tuple[str, ...]
    default: str | None = None

    @property
    def matters(self) -> bool:
        """False if some recipes lack it and the others leave it at its default."""
        return "" not in self.values or {*self.values} - {"", self.default} != set()


def differences(recipes: Sequence[Sequence[Part]]) -> list[Difference]:
    """The settings unlike in the recipes, in the order of a run's parts."""
    tables = [_flat(parts) for parts in recipes]
    every = dict.fromkeys(key for table in tables for key in table)
    tops = ("recipe", *_ORDER)
    order = {key: next((i for i, top in enumerate(tops) if key[0].split(".")[0] == top), len(tops)) for key in every}
    rows = []
    for key in sorted(every, key=lambda each: order[each]):
        found = [table.get(key) for table in tables]
        usual = next((each.default for each in found if each is not None and each.default is not None), None)
        rows.append(Difference(key[1], tuple(each.value if each else "" for each in found), usual))
    return [row for row in rows if len(set(row.values)) > 1]


def _flat(parts: Sequence[Part]) -> dict[tuple[str, str], Choice]:
    """(part, full key) -> choice."""
    found: dict[tuple[str, str], Choice] = {}
    for part in parts:
        if part.use:
            found[part.key, part.key] = Choice(part.key, part.use)
        for choice in part.choices:
            key = choice.key if part.key == "recipe" else f"{part.key}.{choice.key}".rstrip(".")
            found[part.key, key] = choice
    return found
