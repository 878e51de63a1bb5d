"""One run's whole configuration: plain YAML -> a resolved, typed, complete :class:`Recipe`, without torch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.catalog.in_process import HERE
from ldm_core.catalog.release import VERSION
from ldm_core.config.fields import later_defaults
from ldm_core.config.structure import digest, unstructure
from ldm_core.contracts.configs import (
    AdapterConfig,
    ConditionerConfig,
    DegradationConfig,
    DenoiserConfig,
    FirstStageConfig,
    GuidanceConfig,
    of,
)
from ldm_core.recipe.keys import (
    LISTS,
    OBJECTIVE,
    SAME,
    SAMPLING_KEYS,
    SINGLE,
    Plain,
    as_before,
    without_same,
    without_same_fields,
)
from ldm_core.recipe.places import handed_on
from ldm_core.recipe.settings import DataSettings, FirstStageTrainerSettings, SampleSettings, TrainerSettings
from ldm_core.storage.options import StorageSettings

_STAGE_TRAINING = ("first_stage_trainer", "stage_objective", "auxiliary_losses")


@attrs.frozen(kw_only=True)
class Part:
    """One component of a recipe: the component's name, its complete config, and the name it was asked by."""

    kind: str
    use: str
    config: Any
    asked: str = ""

    @property
    def label(self) -> str:
        """The name for messages: the requested preset or component."""
        return self.asked or self.use

    def plain(self) -> dict[str, Any]:
        """As written to recipe.yaml: every field."""
        return {"use": self.use, **unstructure(self.config)}


@attrs.frozen(kw_only=True)
class StagePart(Part):
    """The first stage; `weights`: path or URL of a trained one, used frozen; `sha256` of its file.

    `image_channels`: of the images behind those weights; 0 = not known.
    """

    weights: str = ""
    sha256: str = ""
    image_channels: int = 0

    def plain(self) -> dict[str, Any]:
        """The plain values in recipe.yaml: every field; the weights if there are any."""
        extra = {"weights": self.weights, "sha256": self.sha256} if self.weights else {}
        return {**super().plain(), **extra}


@attrs.frozen(kw_only=True)
class ConditionerPart(Part):
    """A conditioner; `dropout`: share of examples without it in training; `train`: with the denoiser, or frozen;
    `degradation`: makes one of its inputs of an example's picture."""

    name: str
    dropout: float = 0.0
    train: bool = True
    degradation: Part | None = None

    @property
    def made(self) -> str:
        """The key of the degradation's product; "" without one, or if the conditioner does not take it."""
        if self.degradation is None:
            return ""
        made: Any = of(DegradationConfig, self.degradation.config).makes
        return of(ConditionerConfig, self.config).degradable.get(made, "")

    def plain(self) -> dict[str, Any]:
        """As written to recipe.yaml: every field; the degradation if there is one."""
        extra = {} if self.degradation is None else {"degradation": self.degradation.plain()}
        return {**super().plain(), "name": self.name, "dropout": self.dropout, "train": self.train, **extra}


@attrs.frozen(kw_only=True)
class AdapterPart(Part):
    """An adapter; `name`: the given one, or the component's; `key`: the prefix of its state among the model's, the name
    if one was given, else the number in the list, if it is free.

    `weights`: path or URL of its own file, `sha256` the hash and `file` the place of what was found there. `train`:
    with the model, or frozen, as one with weights is by default.
    """

    name: str = ""
    key: str = ""
    weights: str = ""
    sha256: str = ""
    file: str = attrs.field(default="", eq=False)
    train: bool = True

    @property
    def scale(self) -> float | None:
        """The strength; None if its config has none."""
        return of(AdapterConfig, self.config).scale

    def plain(self) -> dict[str, Any]:
        """As written to recipe.yaml: every field of the config, and what is not by default."""
        named = {} if self.key.isdecimal() else {"name": self.name}
        own = {"weights": self.weights, "sha256": self.sha256} if self.weights else {}
        train = {} if self.train is not bool(self.weights) else {"train": self.train}
        return {**super().plain(), **named, **own, **train}


@attrs.frozen(kw_only=True)
class MixturePart(Part):
    """Several data sets as one; `weights`: shares of the training examples, none = by their sizes."""

    members: tuple[Part, ...]
    weights: tuple[float, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """The rows in recipe.yaml: a list of components, each with its weight if there are weights."""
        rows = [member.plain() for member in self.members]
        return [{**row, "weight": w} for row, w in zip(rows, self.weights, strict=True)] if self.weights else rows


@attrs.frozen(kw_only=True)
class Recipe:
    """A resolved recipe: every component by name with every field of its config, and the core's own settings."""

    image_size: tuple[int, int]
    image_channels: int
    seed: int
    first_stage: StagePart
    stage_objective: Part
    auxiliary_losses: tuple[Part, ...]
    conditioners: tuple[ConditionerPart, ...]
    denoiser: Part
    schedule: Part
    parameterization: Part
    objective: Part
    time_grid: Part
    sampler: Part
    guidance: Part
    dataset: Part
    adapters: tuple[AdapterPart, ...]
    observers: tuple[Part, ...]
    metrics: tuple[Part, ...]
    guides: tuple[Part, ...] = ()
    """Guidances around `guidance`, the innermost first."""
    data: DataSettings
    first_stage_trainer: FirstStageTrainerSettings
    trainer: TrainerSettings
    sample: SampleSettings
    storage: StorageSettings

    def plain(self) -> dict[str, Any]:
        """Plain values, complete: resolving them again gives an equal recipe."""
        out: dict[str, Any] = {}
        for field in attrs.fields(Recipe):
            value = getattr(self, field.name)
            if isinstance(value, MixturePart):
                out[field.name] = value.rows()
            elif isinstance(value, Part):
                out[field.name] = value.plain()
            elif field.name in LISTS:
                if value or field.default is attrs.NOTHING:  # a list that is newer than 0.1.0 is there if it holds any
                    out[field.name] = [p.plain() for p in value]
            else:
                out[field.name] = unstructure(value)
        return out

    def public(self) -> dict[str, Any]:
        """:meth:`plain` without the credentials of any URL, and without later settings of parts at their defaults: the
        content of files, pictures and identities."""
        out: dict[str, Any] = _shown(self.plain())
        for part, row in self._rows(out):
            for name, default in later_defaults(type(part.config)).items() if attrs.has(type(part.config)) else ():
                if row.get(name) == default:
                    del row[name]
        return out

    def carried(self) -> dict[str, Any]:
        """:meth:`public` without observers, metrics, storage and the place of the starting weights, and with names in
        place of local paths; hashes stay: the recipe in weights and pictures, for others to load them."""
        public = handed_on(self.public())
        plain = {**{k: v for k, v in public.items() if k != "storage"}, "observers": [], "metrics": []}
        return {k: {**v, "init_from": ""} if "init_from" in SAME.get(k, ()) else v for k, v in plain.items()}

    def _contents(self) -> dict[str, Any]:
        """:meth:`public` with the hashes of the parts' files in place of their paths."""
        out = self.public()
        for part, row in self._rows(out):
            for field in attrs.fields(type(part.config)) if attrs.has(type(part.config)) else ():
                if "sha256" in field.metadata:
                    row.pop(field.name)
            if isinstance(part, AdapterPart) and part.weights:
                row.pop("weights")
        return out

    def _rows(self, plain: Mapping[str, Any]) -> Iterable[tuple[Part, dict[str, Any]]]:
        """Every component, each of several data sets too, with its own row of the plain values."""
        for key in (*SINGLE, *LISTS):
            parts = getattr(self, key) if key in LISTS else self.datasets if key == "dataset" else (getattr(self, key),)
            given = plain.get(key, [])
            rows = given if isinstance(given, list) else [given]
            for part, row in zip(parts, rows, strict=True):
                yield part, row
                if isinstance(part, ConditionerPart) and part.degradation is not None:
                    yield part.degradation, row["degradation"]

    def parts(self) -> Iterable[Part]:
        """Every component, in build order."""
        yield self.first_stage
        yield self.stage_objective
        yield from self.auxiliary_losses
        yield from self.conditioners
        yield from (part.degradation for part in self.conditioners if part.degradation is not None)
        for kind in SINGLE:
            if kind not in ("first_stage", "stage_objective", "dataset"):
                yield getattr(self, kind)
        yield from self.datasets
        yield from self.adapters
        yield from self.observers
        yield from self.metrics
        yield from self.guides

    @property
    def datasets(self) -> tuple[Part, ...]:
        """The data set, or the members of the mixture."""
        return self.dataset.members if isinstance(self.dataset, MixturePart) else (self.dataset,)

    @property
    def reads(self) -> tuple[str, ...]:
        """The example's keys read by the conditioners, each once, in their order."""
        return tuple(dict.fromkeys(key for c in self.conditioners for key in c.config.reads))

    @property
    def made(self) -> frozenset[str]:
        """The keys that degradations make: ``image`` in its own place, others for data without them."""
        return frozenset(filter(None, (part.made for part in self.conditioners)))

    def asked(self, offered: Container[str]) -> tuple[str, ...]:
        """Leave out of `reads` the keys to be made, beside data with the keys `offered`."""
        return tuple(key for key in self.reads if key in offered or key not in self.made)

    @property
    def guidances(self) -> tuple[Part, ...]:
        """The guidance and those around it, the innermost first."""
        return (self.guidance, *self.guides)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The keys that an image to sample must have: :attr:`reads`, and what the guidances read."""
        more = (key for part in self.guidances for key in of(GuidanceConfig, part.config).reads)
        return tuple(dict.fromkeys((*self.reads, *more)))

    @property
    def accepted_options(self) -> frozenset[str]:
        """The names of the options of a branch that the denoiser or an adapter accepts."""
        accepts = [of(DenoiserConfig, self.denoiser.config).accepts]
        accepts += [some for a in self.adapters if (some := of(AdapterConfig, a.config).accepts) is not None]
        return frozenset(name for some in accepts for name in some.options)

    def identity(self) -> str:
        """A hash of the trained model's settings: everything but sampling, the log and checkpoint intervals."""
        return self._identity(self._contents())

    def carried_identity(self) -> str:
        """The same of the names of local files in place of their paths: the model's own and that of its file."""
        return self._identity(handed_on(self._contents()))

    def _identity(self, contents: Plain) -> str:
        plain = {k: v for k, v in self.decisive(contents).items() if k not in SAMPLING_KEYS}
        if self.first_stage.weights:
            for key in _STAGE_TRAINING:
                plain.pop(key, None)
            plain["first_stage"] = {"sha256": self.first_stage.sha256}
        return digest({k: without_same(k, v) for k, v in plain.items()})

    def first_stage_identity(self) -> str:
        """A hash of the first stage's own settings: the same for every model able to share it."""
        plain = self.decisive(self.public())
        if self.first_stage.weights:
            return digest({"sha256": self.first_stage.sha256})
        keys = ("image_size", "image_channels", "seed", "first_stage", *_STAGE_TRAINING, "dataset", "data")
        return digest({k: without_same(k, plain[k]) for k in keys if k in plain})

    @property
    def trains_stage(self) -> bool:
        """True if the run trains a first stage: it is not given, and has something to train."""
        named = of(FirstStageConfig, self.first_stage.config).stage_objective
        return bool(named) and not self.first_stage.weights

    def decisive(self, plain: Plain) -> dict[str, Any]:
        """Plain values, this recipe's or stored ones, in the form that first stages' trainings are compared in."""
        out = as_before(plain, trained=self.trains_stage)
        if isinstance(row := out.get(OBJECTIVE), Mapping):
            out[OBJECTIVE] = without_same_fields(type(self.stage_objective.config), row)
        return out

    @property
    def name(self) -> str:
        """A short name for the run's folder: the main parts and the hash."""
        words = [self.first_stage.label, *(c.name for c in self.conditioners)]
        return "-".join([*words, self.identity()[:8]])


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(v) for v in value]
    return storage.shown(value) if isinstance(value, str) and "://" in value else value


def versions(recipe: Recipe, catalog: Catalog) -> dict[str, str]:
    """Distribution -> version, for the components of the model and the core itself."""
    parts = [part for part in recipe.parts() if part.kind not in ("observer", "metric")]
    # data only described by a file need not be installed
    told = [part for part in parts if isinstance(part.config, Mapping) and part.use not in catalog.names(part.kind)]
    entries = [catalog.get(part.kind, part.use)[0] for part in parts if part not in told]
    installed = {e.distribution: e.version for e in entries if e.distribution != HERE}
    return dict(sorted({"ldm-core": VERSION, **installed}.items()))
