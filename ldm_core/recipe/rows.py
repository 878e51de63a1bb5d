"""The core's own keys in the rows of a recipe's lists: of conditioners, with their degradations, and of adapters, each
with weights of its own if it is to act; and what parts require of each other. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any, TypeGuard

import attrs

from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts.configs import ConditionerConfig, Config, DegradationConfig, of
from ldm_core.contracts.site import Site
from ldm_core.errors import ConfigError, clean, quoted
from ldm_core.recipe import artifacts
from ldm_core.recipe.artifacts import Find, is_weights
from ldm_core.recipe.recipe import AdapterPart, ConditionerPart, Part, Recipe
from ldm_core.recipe.sources import require_hash, trained_config

_KEYS: Mapping[str, type] = {"name": str, "weights": str, "sha256": str, "train": bool}
_CONDITIONER_KEYS: Mapping[str, type] = {"name": str, "dropout": float, "train": bool}
_DEGRADATION = "degradation"


def conditioner_keys(given: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    """Take the keys of a conditioner that are the core's, but for its degradation, out of `given`."""
    extra: dict[str, Any] = {"name": name}
    problems: list[str] = []
    for key, kind in _CONDITIONER_KEYS.items():
        if key in given:
            try:
                extra[key] = structure(given.pop(key), kind, f"{path}.{key}")
            except ConfigError as error:
                problems += error.problems
    if not 0 <= extra.get("dropout", 0.0) <= 1:
        problems.append(f"{path}.dropout: expected a share between 0 and 1, got {extra['dropout']}")
    if not str(extra["name"]).isidentifier():
        problems.append(f"{path}.name: expected an identifier such as 'text', got {quoted(extra['name'])}")
    if problems:
        raise ConfigError(problems)
    return extra


def degradation_of(given: dict[str, Any], config: type) -> Any:
    """Take a conditioner's degradation, still as it is written, out of `given`; None without one. Of a component whose
    config has a field of that name it is the config's."""
    if any(field.name == _DEGRADATION for field in attrs.fields(config)):
        return None
    return given.pop(_DEGRADATION, None)


def degradation_misfits(recipe: Recipe) -> Iterator[str]:
    """One line for each degradation beside a conditioner that cannot do with it."""
    site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=recipe.first_stage.config.latent)
    made: dict[str, ConditionerPart] = {}
    for part in recipe.conditioners:
        if (spoils := part.degradation) is None:
            continue
        named = f"degradation '{spoils.label}' of conditioner '{part.name}'"
        makes = of(DegradationConfig, spoils.config).makes
        for line in of(Config, spoils.config).check(site):
            yield f"{named}: {line}"
        if not part.made:
            takes = " or ".join(of(ConditionerConfig, part.config).degradable) or "nothing that is made"
            yield f"{named} makes '{makes}', and the conditioner takes {takes}; choose another, or leave it out"
        elif (other := made.setdefault(part.made, part)) is not part:
            yield (
                f"{named} makes '{part.made}', as that of '{other.name}' does; leave one out, or let one of the "
                "conditioners read another key"
            )
        for other in recipe.conditioners if part.made == "image" else ():
            if other.degradation is None and "image" in other.config.reads:
                yield (
                    f"{named} takes the place of 'image', which conditioner '{other.name}' reads as it is; let one of "
                    "them read another key"
                )


def keys_of(given: dict[str, Any], path: str, config: type | None) -> dict[str, Any]:
    """The keys of an adapter that are the core's: of a component whose config has one of them, it is the config's."""
    taken = {field.name for field in attrs.fields(config)} if config is not None else set()
    extra: dict[str, Any] = {
        k: structure(given.pop(k), kind, f"{path}.{k}") for k, kind in _KEYS.items() if k in given.keys() - taken
    }
    if not str(extra.get("name", "name")).isidentifier():
        raise ConfigError(f"{path}.name: expected an identifier such as 'style', got {quoted(extra['name'])}")
    return extra


def trained(
    given: Mapping[str, object], use: str, extra: dict[str, Any], path: str, catalog: Catalog, find: Find
) -> AdapterPart:
    """An adapter from its own file, of a strength of its own."""
    file = artifacts.adapter_file(extra["weights"], extra.get("name") or use, find)
    header = artifacts.read_header(file, "adapter")
    conf = trained_config(header, use, given, path, catalog, free=("scale",))
    require_hash(header, extra.get("sha256", ""), path)
    more = {"train": False, **extra, "sha256": header.sha256, "file": file}
    return AdapterPart(kind="adapter", use=header.use, config=conf, asked=header.use, **more)


def named(parts: Sequence[Part]) -> tuple[AdapterPart, ...]:
    """Adapters each with a name and a key of its own: those that it has, or the component's name, numbered where it is
    taken, and its number in the list, or the name where that is taken."""
    adapters = [part for part in parts if isinstance(part, AdapterPart)]
    given = [part.name for part in adapters if part.name]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ConfigError([f"adapters: two are named '{name}'; give one of them another name" for name in twice])
    named, names, keys = [], set(given), {part.key for part in adapters}
    for i, part in enumerate(adapters):
        numbered = (f"{part.use}_{n}" for n in count(2))
        name = part.name or next(each for each in chain([part.use], numbered) if each not in names)
        names.add(name)
        named.append(attrs.evolve(part, name=name, key=part.key or part.name or (name if str(i) in keys else str(i))))
    return tuple(named)


def by_name(value: object) -> TypeGuard[Mapping[str, object]]:
    """True for adapters by their names; the settings of one adapter say its `use` or its `weights`."""
    return isinstance(value, Mapping) and not isinstance(value.get("use", value.get("weights")), str)


def rows_of(value: Mapping[str, object]) -> list[object]:
    """A list of adapters from a mapping by their names; one that is null is left out."""
    rows: list[object] = []
    for name, row in value.items():
        own = {"weights" if is_weights(row) else "use": row} if isinstance(row, str) else row
        if isinstance(own, Mapping):
            named = {} if own.get("weights") else {"use": name}
            rows.append({**named, "name": name, **own})
        elif own is not None:
            raise ConfigError(f"adapters.{clean(name, 60)}: expected settings, or the name of a component")
    return rows


def trait_misfits(recipe: Recipe) -> Iterator[str]:
    """The traits that a part of the diffusion requires of the others."""
    parts = (*recipe.guidances, recipe.sampler, recipe.time_grid, recipe.objective, *recipe.adapters)
    others = (*recipe.conditioners, recipe.first_stage, recipe.denoiser, recipe.parameterization, recipe.schedule)
    given = {trait for part in (*parts, *others) for trait in of(Config, part.config).provides}
    for part in parts:
        for trait, remedy in of(Config, part.config).requires.items():
            if trait not in given:
                yield f"{part.kind} '{part.label}' requires '{trait}', which no part of the model provides: {remedy}"
