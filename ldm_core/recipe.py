"""One run's whole configuration: plain YAML -> a resolved, typed, complete :class:`Recipe`, without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import attrs

from ldm_core import config as _config
from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.component import VERSION
from ldm_core.contracts import DataInfo
from ldm_core.errors import ComponentError, ConfigError, suggest
from ldm_core.settings import DataSettings, FirstStageTrainerSettings, SampleSettings, TrainerSettings

SINGLE = (
    "first_stage",
    "denoiser",
    "schedule",
    "parameterization",
    "objective",
    "time_grid",
    "sampler",
    "guidance",
    "dataset",
)
"""Top-level keys that hold one component each; the key is the component's kind."""
LISTS = {"conditioners": "conditioner", "adapters": "adapter", "observers": "observer"}
"""Top-level keys that hold a list of components, and their kind."""
DEFAULTS: Mapping[str, Any] = {
    "first_stage": "identity",
    "conditioners": [],
    "denoiser": "unet",
    "schedule": "vp",
    "parameterization": "eps",
    "objective": "simple",
    "time_grid": "trailing",
    "sampler": "ddpm",
    "guidance": "none",
    "dataset": "shapes",
    "adapters": [],
    "observers": [],
}
SECTIONS: Mapping[str, type] = {
    "data": DataSettings,
    "first_stage_trainer": FirstStageTrainerSettings,
    "trainer": TrainerSettings,
    "sample": SampleSettings,
}
SAMPLING_KEYS = ("sample", "sampler", "guidance", "time_grid", "observers")
"""Keys that may change without making another model of it."""
_CONDITIONER_KEYS = {"name": str, "dropout": float, "train": bool}


@attrs.frozen(kw_only=True)
class Part:
    """One component of a recipe: the component's name, its complete config, and the name it was asked by."""

    kind: str
    use: str
    config: Any
    asked: str = ""

    def plain(self) -> dict[str, Any]:
        """As written to recipe.yaml: every field."""
        return {"use": self.use, **_config.unstructure(self.config)}


@attrs.frozen(kw_only=True)
class StagePart(Part):
    """The first stage; `weights`: path or URL of a trained one that is used frozen, `sha256` of that file.

    `image_channels`: of the images that those weights were trained on; 0 = not known.
    """

    weights: str = ""
    sha256: str = ""
    image_channels: int = 0

    def plain(self) -> dict[str, Any]:
        """As written to recipe.yaml: every field; the weights where there are any."""
        extra = {"weights": self.weights, "sha256": self.sha256} if self.weights else {}
        return {**super().plain(), **extra}


@attrs.frozen(kw_only=True)
class ConditionerPart(Part):
    """A conditioner; `dropout`: share of examples that lose it in training; `train`: with the denoiser, or frozen."""

    name: str
    dropout: float = 0.0
    train: bool = True

    def plain(self) -> dict[str, Any]:
        """As written to recipe.yaml: every field."""
        return {**super().plain(), "name": self.name, "dropout": self.dropout, "train": self.train}


@attrs.frozen(kw_only=True)
class Recipe:
    """A resolved recipe: every component by name with every field of its config, and the core's own settings."""

    image_size: tuple[int, int]
    image_channels: int
    seed: int
    first_stage: StagePart
    conditioners: tuple[ConditionerPart, ...]
    denoiser: Part
    schedule: Part
    parameterization: Part
    objective: Part
    time_grid: Part
    sampler: Part
    guidance: Part
    dataset: Part
    adapters: tuple[Part, ...]
    observers: tuple[Part, ...]
    data: DataSettings
    first_stage_trainer: FirstStageTrainerSettings
    trainer: TrainerSettings
    sample: SampleSettings

    def plain(self) -> dict[str, Any]:
        """Plain values, complete: resolving them again gives an equal recipe."""
        out: dict[str, Any] = {}
        for field in attrs.fields(Recipe):
            value = getattr(self, field.name)
            if isinstance(value, Part):
                out[field.name] = value.plain()
            elif field.name in LISTS:
                out[field.name] = [p.plain() for p in value]
            else:
                out[field.name] = _config.unstructure(value)
        return out

    def parts(self) -> Iterable[Part]:
        """Every component, in build order."""
        yield self.first_stage
        yield from self.conditioners
        for kind in SINGLE[1:]:
            yield getattr(self, kind)
        yield from self.adapters
        yield from self.observers

    def identity(self) -> str:
        """A hash of all that shapes the trained model: everything but sampling, the log and checkpoint intervals."""
        plain = {k: v for k, v in self.plain().items() if k not in SAMPLING_KEYS}
        if self.first_stage.weights:
            plain.pop("first_stage_trainer")
            plain["first_stage"] = {"sha256": self.first_stage.sha256}
        return digest({k: _without_intervals(v) for k, v in plain.items()})

    def first_stage_identity(self) -> str:
        """A hash of all that shapes the first stage alone: the same for every model that could share it."""
        plain = self.plain()
        if self.first_stage.weights:
            return digest({"sha256": self.first_stage.sha256})
        keys = ("image_size", "image_channels", "seed", "first_stage", "first_stage_trainer", "dataset", "data")
        return digest({k: _without_intervals(plain[k]) for k in keys})

    @property
    def name(self) -> str:
        """A short name for the run's folder: the main parts and the hash."""
        words = [self.first_stage.asked or self.first_stage.use, *(c.name for c in self.conditioners)]
        return "-".join([*words, self.identity()[:8]])


INTERVALS = ("log_every", "checkpoint_every", "keep_checkpoints", "workers", "keep", "deepspeed", "zero")
"""Keys of a section that do not change what is trained."""


def _without_intervals(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in INTERVALS} if isinstance(value, Mapping) else value


def digest(plain: Any) -> str:
    """SHA-256 of plain values, whatever the order of their keys; 64 hex digits."""
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, default=_config.unstructure)
    return hashlib.sha256(text.encode()).hexdigest()


def versions(recipe: Recipe, catalog: Catalog) -> dict[str, str]:
    """Distribution -> version of everything that brings a component of the recipe, and the core itself."""
    entries = [catalog.get(part.kind, part.use)[0] for part in recipe.parts()]
    return dict(sorted({"ldm-core": VERSION, **{e.distribution: e.version for e in entries}}.items()))


# ---------------------------------------------------------------------------------------------------- loading


def shipped() -> dict[str, str]:
    """Names of the recipes that come with the core -> their first comment line."""
    out = {}
    for file in resources.files("ldm_core").joinpath("recipes").iterdir():
        if file.name.endswith(".yaml"):
            first = file.read_text(encoding="utf-8").splitlines()[0]
            out[file.name.removesuffix(".yaml")] = first.lstrip("# ")
    return dict(sorted(out.items()))


def load_plain(name_or_url: str) -> dict[str, Any]:
    """A shipped recipe by name, or a YAML file by path or URL, as plain values."""
    names = shipped()
    if name_or_url in names:
        text = resources.files("ldm_core").joinpath("recipes", f"{name_or_url}.yaml").read_text(encoding="utf-8")
    elif "/" in name_or_url or name_or_url.endswith((".yaml", ".yml")):
        text = storage.read_text(name_or_url)
    else:
        raise ConfigError(
            f"no recipe named '{name_or_url}'{suggest(name_or_url, names)} (shipped: {', '.join(names)}; "
            "or give the path or URL of a .yaml file)"
        )
    plain = _config.parse_yaml(text, name_or_url)
    if not isinstance(plain, dict):
        raise ConfigError(f"{name_or_url}: expected a mapping of settings such as 'first_stage: vq_f4'")
    return plain


def is_weights(name: str) -> bool:
    """Whether a first stage is given as a file or folder of trained weights and not as a component's name."""
    return "/" in name or "\\" in name or name.endswith(".safetensors")


# -------------------------------------------------------------------------------------------------- resolving


def resolve(plain: Mapping[str, Any], catalog: Catalog, info: DataInfo | None = None) -> Recipe:
    """Plain values -> a complete recipe. Every mistake is reported at once (:class:`ConfigError`).

    `info`, what the data offers, lets conditioners fill in numbers such as class counts.
    """
    problems: list[str] = []
    known = ["image_size", "image_channels", "seed", "scale", *SINGLE, *LISTS, *SECTIONS]
    for key in plain:
        if key not in known:
            hint = suggest(str(key), known) or " (known: " + ", ".join(known) + ")"
            problems.append(f"{key}: unknown key{hint}")
    small = plain.get("scale", "paper")
    if small not in ("paper", "small"):
        problems.append(f"scale: expected paper or small, got {small!r}")
    out: dict[str, Any] = {}

    def attempt(key: str, make: Any) -> None:
        try:
            out[key] = make()
        except ConfigError as error:
            problems.extend(error.problems)
        except ComponentError as error:
            problems.append(f"{key}: {error}")

    attempt("image_size", lambda: _size(plain.get("image_size", 256)))
    attempt("image_channels", lambda: _one_or_three(plain.get("image_channels", 3)))
    attempt("seed", lambda: _config.structure(plain.get("seed", 0), int, "seed"))
    for key, section in SECTIONS.items():
        attempt(key, lambda key=key, section=section: _config.structure(plain.get(key) or {}, section, key))
    for kind in SINGLE:
        attempt(
            kind,
            lambda kind=kind: _part(kind, kind, plain.get(kind, DEFAULTS[kind]), catalog, small == "small", info),
        )
    for key, kind in LISTS.items():
        attempt(key, lambda key=key, kind=kind: _list(key, kind, plain.get(key) or [], catalog, small == "small", info))
    if problems:
        raise ConfigError(problems)
    return Recipe(**out)


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value, value]
    height, width = _config.structure(value, tuple[int, int], "image_size")
    if min(height, width) < 1:
        raise ConfigError(f"image_size: expected [height, width] in pixels, got [{height}, {width}]")
    return height, width


def _one_or_three(value: Any) -> int:
    if value not in (1, 3) or isinstance(value, bool):
        raise ConfigError(f"image_channels: expected 1 (grey) or 3 (colour), got {value!r}")
    return int(value)


def _list(key: str, kind: str, value: Any, catalog: Catalog, small: bool, info: DataInfo | None) -> tuple[Part, ...]:
    if isinstance(value, str | Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key}: expected a list of components, got {value!r}")
    parts: list[Part] = []
    problems: list[str] = []
    for i, item in enumerate(value):
        try:
            parts.append(_part(kind, f"{key}[{i}]", item, catalog, small, info))
        except ConfigError as error:
            problems += error.problems
        except ComponentError as error:
            problems.append(f"{key}[{i}]: {error}")
    names = [p.name for p in parts if isinstance(p, ConditionerPart)]
    problems += [
        f"{key}: two conditioners are named '{n}'; give one of them another name: {{use: {n}, name: ...}}"
        for n in sorted({n for n in names if names.count(n) > 1})
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(parts)


def _part(kind: str, path: str, value: Any, catalog: Catalog, small: bool, info: DataInfo | None) -> Part:
    if isinstance(value, str):
        value = {"use": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("use", ""), str):
        raise ConfigError(f"{path}: expected a component's name or a mapping with 'use: NAME', got {value!r}")
    given = {k: v for k, v in value.items() if k != "use"}
    name = value.get("use") or _default_name(kind, path)
    if kind == "first_stage" and is_weights(name):
        given["weights"], name = name, ""
    if kind == "first_stage" and given.get("weights") and "use" not in value:
        name = ""  # the file says what it holds
    extra: dict[str, Any] = {}
    if kind == "first_stage":
        extra = _stage_keys(given, path)
        if extra.get("weights"):
            return _trained_stage(given, name, extra, path, catalog)
    entry, preset = catalog.get(kind, name)
    component = entry.component
    if kind == "conditioner":
        extra = _conditioner_keys(given, path, name)
    base = {} if preset is None else _config.unstructure(preset)
    scaled = {**base, **_config.unstructure(component.small)} if small else base
    conf: Any = _config.structure({**scaled, **given}, component.config, path)
    if info is not None and (fill := getattr(conf, "from_data", None)) is not None:
        conf = fill(info)
    make: type[Part] = {"first_stage": StagePart, "conditioner": ConditionerPart}.get(kind, Part)  # type: ignore[assignment]
    return make(kind=kind, use=component.name, config=conf, asked=name, **extra)


def _default_name(kind: str, path: str) -> str:
    default = DEFAULTS.get(kind)
    if not isinstance(default, str):
        raise ConfigError(f"{path}: 'use' is missing; write {{use: NAME, ...}}")
    return default


def _stage_keys(given: dict[str, Any], path: str) -> dict[str, Any]:
    return {k: _config.structure(given.pop(k), str, f"{path}.{k}") for k in ("weights", "sha256") if k in given}


def _trained_stage(
    given: Mapping[str, Any], name: str, extra: dict[str, Any], path: str, catalog: Catalog
) -> StagePart:
    from ldm_core.artifacts import stage_header

    header = stage_header(extra["weights"])
    entry, _ = catalog.get("first_stage", header.use)
    conf: Any = _config.structure(header.config, entry.component.config, f"{extra['weights']}: first_stage")
    if name and name not in (header.use, entry.component.name) and name not in entry.component.presets:
        raise ConfigError(f"{path}: {extra['weights']} holds a '{header.use}', not a '{name}'; leave 'use' out")
    for key, value in given.items():
        own = _config.unstructure(conf).get(key, None)
        if own != value:
            raise ConfigError(
                f"{path}.{key}: a trained stage keeps its own settings ({key}: {own!r} in {extra['weights']}); "
                f"leave the key out, or train a stage of your own"
            )
    if extra.get("sha256") and extra["sha256"] != header.sha256:
        raise ConfigError(
            f"{path}: {extra['weights']} is not the file that the recipe was made with (sha256 {header.sha256[:12]}, "
            f"the recipe says {extra['sha256'][:12]}); give the right file, or leave 'sha256' out to take this one"
        )
    return StagePart(
        kind="first_stage",
        use=header.use,
        config=conf,
        asked=header.use,
        weights=extra["weights"],
        sha256=header.sha256,
        image_channels=int(header.extra.get("image_channels", 0)),
    )


def _conditioner_keys(given: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"name": name}
    problems: list[str] = []
    for key, kind in _CONDITIONER_KEYS.items():
        if key in given:
            try:
                extra[key] = _config.structure(given.pop(key), kind, f"{path}.{key}")
            except ConfigError as error:
                problems += error.problems
    if not 0 <= extra.get("dropout", 0.0) <= 1:
        problems.append(f"{path}.dropout: expected a share between 0 and 1, got {extra['dropout']}")
    if not str(extra["name"]).isidentifier():
        problems.append(f"{path}.name: expected an identifier such as 'text', got {extra['name']!r}")
    if problems:
        raise ConfigError(problems)
    return extra
