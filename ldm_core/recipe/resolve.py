"""Plain values (YAML, the command line) -> a complete :class:`~ldm_core.recipe.recipe.Recipe`, without torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.config.key_hints import key_hint
from ldm_core.config.structure import digest, structure, unstructure
from ldm_core.contracts import ConditionerConfig, DataInfo, FirstStageConfig, Site, configs
from ldm_core.errors import ComponentError, ConfigError, clean, quoted
from ldm_core.recipe import artifacts, rows, sizes
from ldm_core.recipe.artifacts import Find, is_weights
from ldm_core.recipe.keys import DEFAULTS, LISTS, OWN, SAMPLING_KEYS, SECTIONS, SINGLE, renewed
from ldm_core.recipe.recipe import AdapterPart, ConditionerPart, MixturePart, Part, Recipe, StagePart
from ldm_core.recipe.settings import MOST_PIXELS, EngineSettings
from ldm_core.recipe.sources import require_hash, trained_config, with_hash

_MAKE: Mapping[str, type[Part]] = {
    "first_stage": StagePart,
    "conditioner": ConditionerPart,
    "adapter": AdapterPart,
}


@attrs.define
class _Around:
    """The surroundings of a part: the catalog, the scale (small or paper), the data, and the place as far as
    it is known (its latents once the first stage is)."""

    catalog: Catalog
    small: bool
    info: DataInfo | None
    site: Site
    find: Find
    stage: object = None


class _Made:
    """The values of a recipe by key, as far as they can be made, and every mistake in the others."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []

    def make(self, key: str, make: Callable[..., Any], *given: Any) -> None:
        """Keep the value of ``make(*given)`` under `key`, or its mistakes."""
        try:
            self.values[key] = make(*given)
        except ConfigError as error:
            self.problems.extend(error.problems)
        except ComponentError as error:
            self.problems.append(f"{key}: {error}")


def resolve(
    plain: Mapping[str, Any], catalog: Catalog, info: DataInfo | None = None, *, find: Find = artifacts.find
) -> Recipe:
    """Plain values -> a complete recipe. Every mistake is reported at once (:class:`ConfigError`).

    `info`, the description of the data, lets conditioners fill in numbers such as class counts. Files named by `plain`
    are opened for their hashes; the config in a file of weights names none (:func:`resolve_described`). The process is
    unchanged: callers call :func:`use_storage`. `find` finds the files of trained weights named by `plain`; the default
    knows files of ours alone.
    """
    plain = renewed(plain)
    made = _Made()
    made.problems += _strangers(plain)
    own = {key: plain.get(key, default) for key, default in OWN.items()}
    small = own["scale"]
    if small not in ("paper", "small"):
        made.problems.append(f"scale: expected paper or small, got {quoted(small)}")
    plain, secrets = _without_secrets(plain)
    made.problems += secrets
    made.make("image_size", _size, own["image_size"])
    made.make("image_channels", _one_or_three, own["image_channels"])
    made.make("seed", structure, own["seed"], int, "seed")
    for key, section in SECTIONS.items():
        made.make(key, _section, key, section, plain.get(key))
    for key, value in list(made.values.items()):
        if isinstance(value, EngineSettings):
            made.make(key, with_hash, value, key, find)
    around = _Around(catalog, small == "small", info, Site(size=(32, 32)), find)
    if {"image_size", "image_channels"} <= made.values.keys():
        around.site = Site(size=made.values["image_size"], channels=made.values["image_channels"])
    for kind in SINGLE:  # the first stage is the first of them
        one = {"dataset": _data, "stage_objective": _stage_objective}.get(kind, _part)
        made.make(kind, one, kind, kind, plain.get(kind, {} if one is _stage_objective else DEFAULTS[kind]), around)
        if kind == "first_stage" and kind in made.values:
            around.stage = made.values[kind].config
            around.site = attrs.evolve(around.site, latent=made.values[kind].config.latent)
    for key, kind in LISTS.items():
        made.make(key, _list, key, kind, plain.get(key) or [], around)
    if made.problems:
        lacking = catalog.lacking(_named(plain))
        together = [f"all that is not installed: pip install {' '.join(lacking)}"] if len(lacking) > 1 else []
        raise ConfigError([*made.problems, *together])
    return Recipe(**made.values)


def _strangers(plain: Mapping[str, Any]) -> Iterator[str]:
    """A line for each top-level key that no recipe has."""
    known = [*OWN, *SINGLE, *LISTS, *SECTIONS]
    for key in plain:
        if key not in known:
            hint = key_hint("", str(key), known) or " (known: " + ", ".join(known) + ")"
            yield f"{clean(key, 60)}: unknown key{hint}"


def _named(plain: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, name) of every part named by the recipe."""
    for key, kind in {**{kind: kind for kind in SINGLE}, **LISTS}.items():
        value = plain.get(key, DEFAULTS.get(key))
        for part in value if isinstance(value, list | tuple) else [value]:
            inner = part.get("degradation") if kind == "conditioner" and isinstance(part, Mapping) else None
            for its, named in ((kind, part), ("degradation", inner)):
                name = named.get("use") if isinstance(named, Mapping) else named
                if isinstance(name, str):
                    yield its, name


def use_storage(plain: Mapping[str, Any]) -> None:
    """Take the section ``storage`` of the user's own recipe, if it has one, for every remote URL of this process.

    A faulty section changes nothing; :func:`resolve` reports its mistakes.
    """
    given = _without_secrets(plain)[0].get("storage")
    if isinstance(given, Mapping) and given:
        with contextlib.suppress(ConfigError):
            storage.configure(structure(given, SECTIONS["storage"], "storage"))


def resolve_part(kind: str, value: Any, recipe: Recipe, catalog: Catalog) -> Part:
    """One part of top-level key `kind` from plain values, for a place in `recipe`; :class:`ConfigError`."""
    return _part(kind, kind, value, _place(recipe, catalog, artifacts.find))


def resolve_guides(value: object, recipe: Recipe, catalog: Catalog) -> tuple[Part, ...]:
    """The guidances around the recipe's own from plain values, a list; those that are parts stay.
    :class:`ConfigError`."""
    return _list("guides", "guidance", value, _place(recipe, catalog, artifacts.find))


def resolve_adapters(value: Any, recipe: Recipe, catalog: Catalog, find: Find) -> tuple[AdapterPart, ...]:
    """The adapters of plain values, a list or a mapping by name, for a place in `recipe`; those in a list that are
    there already stay. :class:`ConfigError`."""
    return _list("adapters", "adapter", value, _place(recipe, catalog, find))  # type: ignore[return-value]


def _place(recipe: Recipe, catalog: Catalog, find: Find) -> _Around:
    site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=recipe.first_stage.config.latent)
    return _Around(catalog, False, None, site, find)


def _without_secrets(plain: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """`plain` without credentials, and a remark about each; a recipe is written down and handed on."""
    given = plain.get("storage")
    secret = storage.secrets_among(given) if isinstance(given, Mapping) else []
    if not isinstance(given, Mapping) or not secret:
        return plain, []
    lines = [
        f"storage.{key}: credentials do not belong in a recipe, which is written down; set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY in the environment, or name a profile of ~/.aws in storage.profile"
        for key in secret
    ]
    return {**plain, "storage": {k: v for k, v in given.items() if k not in secret}}, lines


def _section(key: str, section: type, value: Any) -> Any:
    if key == "data" and isinstance(value, str) and value:
        raise ConfigError(
            f"data: expected a mapping of settings, got {quoted(value)}; a data set is `dataset={clean(value, 60)}`, "
            "or dataset: {use: folder, url: ...}"
        )
    return structure({} if value is None or value == [] else value, section, key)


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
        value = [value, value]
    if not isinstance(value, list | tuple):
        raise ConfigError(
            f"image_size: expected pixels such as 64, or [height, width] such as [48, 64], got {quoted(value)}"
        )
    height, width = structure(value, tuple[int, int], "image_size")
    if min(height, width) < 1:
        raise ConfigError(f"image_size: expected [height, width] in pixels, got [{height}, {width}]")
    if max(height, width) > MOST_PIXELS:
        raise ConfigError(f"image_size: expected at most {MOST_PIXELS:,} pixels a side, got {quoted(value)}")
    return height, width


def _one_or_three(value: Any) -> int:
    if value not in (1, 3) or isinstance(value, bool):
        raise ConfigError(f"image_channels: expected 1 (grey) or 3 (colour), got {quoted(value)}")
    return int(value)


def _stage_objective(kind: str, path: str, value: Any, around: _Around) -> Part:
    """The objective that the recipe names, or the stage's own with the recipe's settings."""
    if isinstance(value, Mapping) and not value.get("use"):
        own = configs.of(FirstStageConfig, around.stage).stage_objective
        value = {**value, "use": own or DEFAULTS[kind]}
    return _part(kind, path, value, around)


def _data(kind: str, path: str, value: Any, around: _Around) -> Part:
    """A data set, or a list to be mixed; a list of one is its member."""
    if not isinstance(value, list | tuple):
        return _part(kind, path, value, around)
    if not value:
        raise ConfigError(f"{path}: an empty list; give a data set, or several to be mixed")
    members: list[Any] = []
    weights: list[float | None] = []
    problems: list[str] = []
    for i, item in enumerate(value):
        rest = dict(item) if isinstance(item, Mapping) else item
        given = rest.pop("weight", None) if isinstance(rest, dict) else None
        members.append(rest)
        try:
            weight = None if given is None else structure(given, float, f"{path}[{i}].weight")
            weights.append(weight)
            if weight is not None and not 0 < weight < float("inf"):
                problems.append(f"{path}[{i}].weight: expected a number above 0, got {weight}")
        except ConfigError as error:
            problems += error.problems
    if 0 < sum(w is None for w in weights) < len(weights):
        problems.append(f"{path}: some data sets have a weight and some have none; give one to all of them, or to none")
    try:
        parts = _list(path, kind, members, around)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    if len(parts) == 1:
        return parts[0]
    known = tuple(w for w in weights if w is not None)
    return MixturePart(kind=kind, use="mixture", config=None, members=parts, weights=known)


def _list(key: str, kind: str, value: Any, around: _Around) -> tuple[Part, ...]:
    if kind == "adapter" and rows.by_name(value):
        value = rows.rows_of(value)
    if isinstance(value, str | Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key}: expected a list of components, got {quoted(value)}")
    if len(value) > sizes.MOST_PARTS and kind != "dataset":
        raise ConfigError(sizes.too_many(key, len(value)))
    parts: list[Part] = []
    problems: list[str] = []
    for i, item in enumerate(value):
        name = item.get("name") if isinstance(item, Mapping) and kind == "adapter" else None
        path = f"{key}.{name}" if isinstance(name, str) and name.isidentifier() else f"{key}[{i}]"
        try:
            parts.append(item if isinstance(item, Part) else _part(kind, path, item, around))
        except ConfigError as error:
            problems += error.problems
        except ComponentError as error:
            problems.append(f"{path}: {error}")
    names = [p.name for p in parts if isinstance(p, ConditionerPart)]
    problems += [
        f"{key}: two conditioners are named '{n}'; give one of them another name: {{use: {n}, name: ...}}"
        for n in sorted({n for n in names if names.count(n) > 1})
    ]
    if problems:
        raise ConfigError(problems)
    return rows.named(parts) if kind == "adapter" else tuple(parts)


def _part(kind: str, path: str, value: Any, around: _Around) -> Part:
    if isinstance(value, str):
        value = {"use": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("use", ""), str):
        raise ConfigError(f"{path}: expected a component's name or a mapping with 'use: NAME', got {quoted(value)}")
    given = {k: v for k, v in value.items() if k != "use"}
    unnamed = kind == "adapter" and bool(value.get("weights"))  # the file names its own content
    name = value.get("use") or ("" if unnamed else _default_name(kind, path))
    if kind in ("first_stage", "adapter") and is_weights(name):
        given["weights"], name = name, ""
    if kind == "first_stage" and given.get("weights") and "use" not in value:
        name = ""  # the file names its own content
    extra: dict[str, Any] = {}
    if kind == "adapter":
        extra = rows.keys_of(given, path, around.catalog.get(kind, name)[0].component.config if name else None)
        if extra.get("weights"):
            return rows.trained(given, name, extra, path, around.catalog, around.find)
    if kind == "first_stage":
        extra = _stage_keys(given, path)
        if extra.get("weights"):
            return _trained_stage(given, name, extra, path, around)
    entry, preset = around.catalog.get(kind, name)
    component = entry.component
    if kind == "conditioner":
        extra = _conditioner_keys(given, path, name, component.config, around)
    base = {} if preset is None else unstructure(preset)
    scaled = {**base, **_scaled_down(component, base, around.site)} if around.small else base
    if kind in sizes.BOUNDED and (problems := list(sizes.misfits(given, component.config, path))):
        raise ConfigError(problems)
    conf = _config({**scaled, **given}, component.config, path, name)
    fill = configs.of(ConditionerConfig, conf).from_data
    if around.info is not None and fill is not None:
        conf = fill(around.info)
    conf = _with_hashes(conf, path, hold=kind not in SAMPLING_KEYS)
    return _MAKE.get(kind, Part)(kind=kind, use=component.name, config=conf, asked=name, **extra)


def _config(given: Mapping[str, object], config: type, path: str, name: str) -> Any:
    """The config of the component `name`; an unknown key's line, with the known ones, names it too."""
    try:
        return structure(given, config, path)
    except ConfigError as error:
        owner = f"; {path} is '{name}'"
        raise ConfigError([f"{x}{owner if ': unknown key (known' in x else ''}" for x in error.problems]) from None


def _with_hashes(conf: Any, path: str, *, hold: bool) -> Any:
    """`conf` with the hashes of the files in its fields: a field's metadata ``sha256`` is the field of its hash,
    ``file`` the file's name within a folder, and ``files`` the names of several.

    A missing file keeps the given hash: its effect is in the weights. A file other than the recipe's is an error,
    except in parts for sampling only (not `hold`): those raise it when built, since the trained model can be used
    without them.
    """
    for field in attrs.fields(type(conf)):
        url, known = getattr(conf, field.name), field.metadata.get("sha256")
        if known is not None and url and "file" in field.metadata and not url.endswith(".safetensors"):
            url = storage.join(url, field.metadata["file"])
        if known is None or not url or not storage.exists(url):
            continue
        found, given = _hash(url, field.metadata.get("files", ())), getattr(conf, known)
        if given and given != found and not hold:
            continue
        if given and given != found:
            raise ConfigError(
                f"{path}.{field.name}: {storage.shown(url)} is not the file that the recipe was made with (sha256 "
                f"{found[:12]}, the recipe says {given[:12]}); give the right file, or {path}.{known}= to take this one"
            )
        conf = attrs.evolve(conf, **{known: found})
    return conf


def _hash(url: str, names: Sequence[str]) -> str:
    """The hash of a file, or of those of `names` in a folder."""
    if not names or not storage.is_folder(url):
        return artifacts.sha256(url)
    files = {name: storage.join(url, name) for name in names}
    return digest({name: artifacts.sha256(file) for name, file in files.items() if storage.exists(file)})


def _scaled_down(component: Component, base: Mapping[str, Any], site: Site) -> dict[str, Any]:
    """The component's `small` fields; whole numbers only ever go down, so a preset's small codebook stays."""
    full = {**{a.name: a.default for a in attrs.fields(component.config)}, **base}
    small = unstructure(component.scaled_down(site))
    return {k: min(v, full[k]) if type(v) is int and type(full[k]) is int else v for k, v in small.items()}


def _default_name(kind: str, path: str) -> str:
    default = DEFAULTS.get(kind)
    if not isinstance(default, str):
        raise ConfigError(f"{path}: 'use' is missing; write {{use: NAME, ...}}")
    return default


def _stage_keys(given: dict[str, Any], path: str) -> dict[str, Any]:
    return {k: structure(given.pop(k), str, f"{path}.{k}") for k in ("weights", "sha256") if k in given}


def _trained_stage(given: Mapping[str, Any], name: str, extra: dict[str, Any], path: str, around: _Around) -> StagePart:
    header = artifacts.stage_header(extra["weights"], around.find)
    conf = trained_config(header, name, given, path, around.catalog)
    require_hash(header, extra.get("sha256", ""), path)
    return StagePart(
        kind="first_stage",
        use=header.use,
        config=conf,
        asked=header.use,
        weights=extra["weights"],
        sha256=header.sha256,
        image_channels=int(header.extra.get("image_channels", 0)),
    )


def _conditioner_keys(given: dict[str, Any], path: str, name: str, config: type, around: _Around) -> dict[str, Any]:
    """The keys of a conditioner that are the core's, taken out of `given`, its degradation resolved."""
    extra: dict[str, Any] = {"train": configs.of(ConditionerConfig, config).trained_by_default}
    extra |= rows.conditioner_keys(given, path, name)
    if (asked := rows.degradation_of(given, config)) is not None:
        extra["degradation"] = _part("degradation", f"{path}.degradation", asked, around)
    return extra
