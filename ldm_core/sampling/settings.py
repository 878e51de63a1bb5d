"""Other settings of sampling for a trained model: sampler, guidance, guides, time grid, adapters, the section `sample`.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ldm_core.catalog import Catalog
from ldm_core.config import overrides
from ldm_core.config.key_hints import key_hint
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts.configs import AdapterConfig, GuidanceConfig, ScheduleConfig, TimeGridConfig, of
from ldm_core.errors import ComponentError, ConfigError, clean, quoted, suggest
from ldm_core.recipe.check import sampling_misfits
from ldm_core.recipe.recipe import AdapterPart, Part, Recipe
from ldm_core.recipe.resolve import resolve_adapters, resolve_guides, resolve_part
from ldm_core.recipe.rows import by_name
from ldm_core.recipe.settings import SampleSettings
from ldm_core.weights.convert import finder

CHOICES = ("sampler", "guidance", "guides", "time_grid", "adapters", "sample")
"""Keys of a recipe that may change after training."""
_ELSEWHERE = {
    "observers": "observers are told of training",
    "metrics": "metrics measure a model in training",
    "storage": "storage is set by the environment (AWS_ENDPOINT_URL, FSSPEC_S3_*)",
}


def with_settings(recipe: Recipe, given: Mapping[str, Any] | Iterable[str], catalog: Catalog) -> Recipe:
    """Give `recipe` other settings of sampling: a mapping as in a recipe, or lines ``KEY=VALUE``.

    Settings are added to those of the same part; another part (``use``, or its bare name) starts from its defaults.
    All mistakes are one :class:`ConfigError`, with the allowed values.
    """
    if not isinstance(given, Mapping):
        lines, given = list(given), {}
        overrides.apply_overrides(given, lines, CHOICES)  # type: ignore[arg-type]
    problems: list[str] = []
    changes: dict[str, Any] = {}
    for key, value in given.items():
        try:
            changes[key] = _changed(recipe, str(key), value, catalog)
        except ConfigError as error:
            problems += error.problems
        except ComponentError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError(problems)
    made: Recipe = attrs.evolve(recipe, **changes)
    if misfits := list(sampling_misfits(made)):
        raise ConfigError(misfits)
    return made


def _changed(recipe: Recipe, key: str, value: Any, catalog: Catalog) -> Any:
    if key not in CHOICES:
        known = key in attrs.fields_dict(Recipe)
        why = _ELSEWHERE.get(key) or ("is part of the trained model" if known else "unknown key")
        hint = "" if known else key_hint("", key, CHOICES, sampling=True)
        raise ConfigError(
            f"{clean(key, 60)}: {why}{hint}; sampling takes {', '.join(CHOICES)}, such as guidance.scale=3"
        )
    if key == "adapters":
        return _adapters(recipe, value, catalog)
    if key == "guides":
        return _guides(recipe, value, catalog)
    if key == "sample":
        if not isinstance(value, Mapping):
            raise ConfigError(f"sample: expected settings such as sample.steps=20, got {quoted(value)}")
        if "prompts" in value:
            raise ConfigError("sample.prompts: are for a run's own samples; give `inputs.caption`")
        return structure({**unstructure(recipe.sample), **value}, SampleSettings, "sample")
    part = getattr(recipe, key)
    if isinstance(value, str):
        value = {"use": value}
    if isinstance(value, Mapping) and value.get("use", part.use) in (part.use, part.asked):
        value = _with_own(part, value)
    try:
        return resolve_part(key, value, recipe, catalog)
    except ConfigError as error:
        owner = f"; {key} is '{value.get('use', part.use) if isinstance(value, Mapping) else part.use}'"
        raise ConfigError([line.removesuffix(owner) + owner for line in error.problems]) from None


def _with_own(part: Part, value: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `part` with those of `value` on top."""
    own = {"use": part.use, **unstructure(part.config)}
    for field in attrs.fields(type(part.config)):
        if field.name in value and "sha256" in field.metadata and own[field.name]:
            own[field.metadata["sha256"]] = ""  # of the file that was named before; a file's recipe names none
    return _merged(own, {k: v for k, v in value.items() if k != "use"})


def _guides(recipe: Recipe, value: Any, catalog: Catalog) -> tuple[Part, ...]:
    """The guidances around the recipe's own, of a list, which takes the place of all, or of a mapping by the names of
    components: null takes one off, settings are added to those of the same one, and a new one comes outermost."""
    if not isinstance(value, Mapping) or isinstance(value.get("use"), str):
        made = resolve_guides([] if value is None else value, recipe, catalog)
    else:
        rows: dict[str, Any] = {part.use: part for part in recipe.guides}
        for name, row in value.items():
            if row is None:
                if rows.pop(str(name), None) is None:
                    there = ", ".join(rows) or "none"
                    raise ConfigError(f"guides.{clean(name, 60)}: there is none{suggest(str(name), rows)} ({there})")
            elif isinstance(row, Mapping):
                part = rows.get(str(name))
                rows[str(name)] = _with_own(part, row) if isinstance(part, Part) else {"use": str(name), **row}
            else:
                raise ConfigError(f"guides.{clean(name, 60)}: expected its settings, such as {{}}, got {quoted(row)}")
        made = resolve_guides(list(rows.values()), recipe, catalog)
    names = [part.use for part in made]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"guides: '{twice[0]}' is there twice; name it once")
    return made


def _adapters(recipe: Recipe, value: Any, catalog: Catalog) -> tuple[AdapterPart, ...]:
    """The adapters of a mapping by name, on top of the model's: null takes one off, `scale` alone changes its strength,
    anything else is another one in its place. A list takes the place of all; it may name those that stay."""
    parts = {part.name: part for part in recipe.adapters}
    if not by_name(value):
        rows = value if isinstance(value, list | tuple) else [value] if value else []
        rows = [parts.get(row, row) if isinstance(row, str) else row for row in rows]
        return _acting(resolve_adapters(rows, recipe, catalog, finder(catalog)), recipe.adapters)
    for name, row in value.items():
        part, path = parts.get(name), f"adapters.{clean(name, 60)}"
        if row is None and part is None:
            raise ConfigError(
                f"{path}: there is none{suggest(str(name), parts)} (adapters: {', '.join(parts) or 'none'})"
            )
        if row is None:
            del parts[name]
        elif part is not None and isinstance(row, Mapping) and (row.keys() <= {"scale"} or _free(part, row)):
            own = {**unstructure(part.config), **row}
            parts[name] = attrs.evolve(part, config=structure(own, type(part.config), path))
        else:
            if part is not None and isinstance(row, Mapping) and not row.keys() & {"use", "weights"}:
                raise ConfigError(f"{path}: is trained; nothing but its `scale` may change, or its `weights`")
            (parts[name],) = resolve_adapters({name: row}, recipe, catalog, finder(catalog))
    return _acting(parts.values(), recipe.adapters)


def _free(part: AdapterPart, row: Mapping[str, object]) -> bool:
    """True if `row` sets anything of a part that has no weights to fit it."""
    return not of(AdapterConfig, part.config).learns and not row.keys() & {"use", "weights"}


def _acting(parts: Iterable[AdapterPart], known: Sequence[AdapterPart]) -> tuple[AdapterPart, ...]:
    """`parts`, each with trained weights: from a file of its own, or those of the model's own adapter of its name."""
    parts, own = tuple(parts), [(part.key, part.use) for part in known]
    if lines := [
        f"adapters.{part.name}: is not trained, so it changes nothing; give adapters.{part.name}.weights=PATH_OR_URL"
        for part in parts
        if not part.weights and (part.key, part.use) not in own and of(AdapterConfig, part.config).learns
    ]:
        raise ConfigError(lines)
    return parts


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        mine = out.get(key)
        out[key] = _merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return out


def chosen(recipe: Recipe, guidance: float | str | None, catalog: Catalog) -> Recipe:
    """Give `recipe` another guidance, by name or by its scale."""
    given: dict[str, Any] = {}
    if isinstance(guidance, str):
        given["guidance"] = guidance
    elif guidance is not None:
        if not math.isfinite(guidance):
            raise ConfigError(f"guidance={guidance}: expected a finite scale, such as 3; 1 is without guidance")
        if of(GuidanceConfig, recipe.guidance.config).scale is not None:
            given["guidance"] = {"scale": float(guidance)}
        elif guidance != 1.0:
            raise ConfigError(
                f"guidance={guidance:g}: this model's guidance '{recipe.guidance.use}' has no scale; choose one that "
                f"has: guidance.use=cfg guidance.scale={guidance:g}"
            )
    return with_settings(recipe, given, catalog) if given else recipe


def require_steps(recipe: Recipe, steps: int) -> None:
    """Raise :class:`ConfigError` if the recipe's time grid cannot give that number of steps."""
    table = of(ScheduleConfig, recipe.schedule.config).table_steps
    if line := of(TimeGridConfig, recipe.time_grid.config).problem(table, steps):
        raise ConfigError(f"steps={steps}: {line}")
