"""Presets in our own weights: settings of sampling by name, each with its figures. Imports no torch.

They stand in the header, in an entry of their own. The bytes of the tensors, the recipe and the file's hash
(:func:`ldm_core.recipe.artifacts.sha256`) are those of the file without them: adapters, caches and pictures go on
naming it. The presets of a foreign file say no more than a user may say by ``KEY=VALUE``, and name no place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.documents import parse_json
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts.values import EMPTY, Precision
from ldm_core.errors import CheckpointError, ConfigError, clean, quoted, suggest
from ldm_core.recipe import artifacts
from ldm_core.recipe.keys import LISTS, SECTIONS
from ldm_core.recipe.places import described

FORMAT = 1
MOST = 16
"""Presets of a file."""
MOST_BYTES = 1 << 16
"""Bytes of all of them, as text."""
MOST_STEPS = 10_000
KEYS = ("sampler", "guidance", "guides", "time_grid", "adapters", "sample")
"""Keys of a recipe to be set by a preset."""
OF_SAMPLE = ("steps", "project_x0", "quantize_x0", "branches")
"""Its keys in the section `sample`."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_LONGEST = 300  # characters of a text


def _short(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if len(value) > _LONGEST:
        raise ValueError(f"{attribute.name}: {len(value):,} characters; at most {_LONGEST}")


def _text(default: Any = attrs.NOTHING) -> Any:
    return attrs.field(default=default, validator=_short)


@attrs.frozen(kw_only=True)
class Value:
    """A figure of a metric, by its name and in words, with the bounds of its interval, if it has one."""

    name: str = _text()
    label: str = _text("")
    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = False

    def in_words(self) -> str:
        """``fd 231 (225 to 238)``."""
        span = "" if self.low is None or self.high is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{clean(self.name, 40)} {self.value:.4g}{span}"


@attrs.frozen(kw_only=True)
class Measured:
    """The figures of a preset: of so many `images`; `seconds` a picture, in batches of `batch`, with its bounds, on the
    `machine`; `speedup`, times as fast as the recipe's own settings."""

    values: tuple[Value, ...] = ()
    images: int = 0
    seconds: float
    seconds_low: float | None = None
    seconds_high: float | None = None
    batch: int = 0
    speedup: float | None = None
    machine: str = _text("")

    def in_words(self) -> str:
        """In a line, without the machine."""
        fast = "" if self.speedup is None else f", {self.speedup:.3g} times as fast as the recipe's own settings"
        return ", ".join([f"{self.seconds * 1000:.3g} ms a picture{fast}", *(each.in_words() for each in self.values)])


@attrs.frozen(kw_only=True)
class Preset:
    """`settings` of sampling as in a recipe, on top of the trained model's own; `precision` of the networks, None = as
    loaded; the figures, None = not measured."""

    settings: Mapping[str, Any] = EMPTY
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    measured: Measured | None = None


@attrs.frozen(kw_only=True)
class _Document:
    format: int
    presets: Mapping[str, Preset]


def parse(text: str, where: str, catalog: Catalog) -> dict[str, Preset]:
    """The presets in a header's `text`, held to all limits; CheckpointError, with the fault and the
    file, for all else."""
    try:
        if len(text.encode()) > MOST_BYTES:
            raise ConfigError(f"{len(text):,} characters; at most {MOST_BYTES:,} bytes are read")
        plain = parse_json(text, "they", ConfigError)
        if isinstance(plain, dict) and type(plain.get("format")) is int and plain["format"] > FORMAT:
            raise ConfigError(
                f"format {quoted(plain['format'], 40)} is newer than this ldm-core reads; update ldm-core"
            )
        found = dict(structure(plain, _Document, "").presets)
        check(found, catalog)
    except ConfigError as error:
        raise CheckpointError(f"{where}: its presets do not read: {'; '.join(error.problems[:3])}") from None
    return found


def check(presets: Mapping[str, Preset], catalog: Catalog) -> None:
    """ConfigError, a line for each fault, for presets beyond the limits of a file: by their number and names, their
    keys and places."""
    problems = [f"{len(presets)} presets; at most {MOST}"] if len(presets) > MOST else []
    for name, preset in list(presets.items())[:MOST]:
        if not _NAME.fullmatch(name):
            problems.append(f"{quoted(name, 60)} is no name of a preset; expected small letters, digits, _ and -")
        else:
            problems += [f"preset {name}: {line}" for line in _faults(preset.settings, catalog)]
    if problems:
        raise ConfigError(problems)


def _faults(settings: Mapping[str, Any], catalog: Catalog) -> list[str]:
    if unknown := [key for key in settings if key not in KEYS]:
        return [f"{clean(unknown[0], 60)}: a preset takes {', '.join(KEYS)} alone"]
    sample = settings.get("sample", {})
    if not isinstance(sample, Mapping):
        return [f"sample: expected a mapping, got {quoted(sample, 60)}"]
    if unknown := [key for key in sample if key not in OF_SAMPLE]:
        return [f"sample.{clean(unknown[0], 60)}: a preset takes {', '.join(OF_SAMPLE)} alone"]
    steps = sample.get("steps", 1)
    if type(steps) is not int or not 0 < steps <= MOST_STEPS:
        return [f"sample.steps: expected a whole number from 1 to {MOST_STEPS:,}, got {quoted(steps, 40)}"]
    return _shapes(settings) or _places(settings, catalog)


def _shapes(settings: Mapping[str, Any]) -> list[str]:
    """Parts are mappings or names, lists of parts are lists."""
    for key, value in settings.items():
        if key in SECTIONS:
            continue
        rows = value if key in LISTS else [value]
        if not isinstance(rows, list | tuple) or not all(map(_is_part, rows)):
            kind = "a list of parts" if key in LISTS else "a part"
            return [f"{key}: expected {kind}, each by its name or with its name as `use`, got {quoted(value, 60)}"]
    return []


def _is_part(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Mapping) and isinstance(value.get("use"), str))


def _places(settings: Mapping[str, Any], catalog: Catalog) -> list[str]:
    """A place named by a preset: everything left out by :func:`described`."""
    for key, value in settings.items():
        if key in SECTIONS:
            continue
        try:
            if _spelled(described({key: value}, catalog).get(key)) != _spelled(value):
                raise ConfigError(key)
        except ConfigError:
            return [f"{key}: names a place (a path, a URL or a file's hash); a preset names none"]
    return []


def _spelled(value: Any) -> Any:
    """A part, or a list of them, with the name of each as its `use`."""
    if isinstance(value, list | tuple):
        return [_spelled(each) for each in value]
    return {"use": value} if isinstance(value, str) else value


def chosen(presets: Mapping[str, Preset], name: str, where: str) -> Preset:
    """The preset of a `name`; ConfigError with the known ones."""
    if name in presets:
        return presets[name]
    if not presets:
        raise ConfigError(
            f"preset '{clean(name, 60)}': {where} have no presets; the command `tune` (ldm-plugin-study) measures some "
            "and writes them into a run's weights"
        )
    raise ConfigError(
        f"preset '{clean(name, 60)}': {where} have none of this name{suggest(name, presets)}; they have "
        f"{', '.join(presets)}"
    )


def text_of(url: str) -> str:
    """The text of the presets of a run's folder or a model's file of ours; "" without them."""
    header, _ = artifacts.raw_header(artifacts.find(url, artifacts.MODEL_FILE))
    return str((header.get("__metadata__") or {}).get(artifacts.PRESETS, ""))


def read(url: str, catalog: Catalog) -> dict[str, Preset]:
    """The presets of a run's folder or a model's file of ours. CheckpointError as :func:`parse` raises it."""
    text = text_of(url)
    return parse(text, storage.shown(url), catalog) if text else {}


def write(url: str, presets: Mapping[str, Preset], catalog: Catalog, *, sha256: str = "") -> None:
    """Write `presets` into the model's file `url`, in place of its former ones; none: take them off.

    The file is replaced as a whole: a reader sees the one before or the one after. With `sha256`, CheckpointError if
    its weights are others by now. StorageError for a read-only place, ConfigError as :func:`check`.
    """
    check(presets, catalog)
    path = storage.local_path(url)
    target = url if path is None else os.path.realpath(path)  # a link stays one
    where = storage.shown(url)
    artifacts.read_header(target, "model", sha256="unread")
    if sha256 and artifacts.sha256(target) != sha256:
        raise CheckpointError(f"{where}: holds other weights by now than those that were measured; measure them anew")
    with storage.open_read(target) as file:
        head = file.read(8)
        head = artifacts.without_presets(head + file.read(int.from_bytes(head, "little")))
        if presets:
            text = json.dumps({"format": FORMAT, "presets": unstructure(presets)}, ensure_ascii=False)
            if len(text.encode()) > MOST_BYTES:
                raise ConfigError(f"presets: {len(text):,} characters; at most {MOST_BYTES:,} bytes are written")
            head = artifacts.with_presets(head, text) or b""
        if not head or head.count(artifacts.PRESETS.encode()) > (1 if presets else 0):
            raise CheckpointError(f"{where}: its header was written by another program; convert it to a run's folder")
        with storage.atomic_path(target) as part, part.open("wb") as out:
            out.write(head)
            shutil.copyfileobj(file, out, 1 << 20)
            if path is not None:
                shutil.copymode(target, part)


def allowed_precision(preset: Preset, given: Precision | None, now: Precision) -> Precision:
    """The arithmetic of a preset in a pipeline: the `given` one wins; then that of a pipeline loaded below
    fp32; then the preset's."""
    if given is not None or now != "fp32":
        return given or now
    return preset.precision or now
