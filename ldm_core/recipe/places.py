"""Places named by a recipe (paths, URLs, second models), and the rule to take none from a file. Torch-free.

A recipe reaches out: it names data, trained weights, tokenizers, servers. The user wrote it, and may. The recipe in a
weights file came with the file, and describes a model: :func:`described` is the one door between the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args, get_origin

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.config.fields import inner_configs, spelled, type_hints
from ldm_core.errors import CheckpointError, ComponentError, ConfigError, LDMError, clean
from ldm_core.recipe.artifacts import is_weights
from ldm_core.recipe.keys import DEFAULTS, LISTS, OBJECTIVE, SECTIONS, SINGLE, Plain, renewed

OUTSIDE = ("dataset", "observers", "metrics", "storage")
"""Keys of a recipe that are about places, or about a run alone: left out of a file's recipe."""
ELSEWHERE = "(named by the run that made this file)"
"""Stands for an omitted place, if its presence matters."""
_WORDS = (
    "address|checkpoint|dir|directory|endpoint|file|files|folder|folders|host|model|models|path|paths|source|tokenizer|"
    "url|urls|vocab|vocabulary|weights"
)
_LIKE = re.compile(rf"(^|_)({_WORDS})$")
_WITH_FILES, _OF_A_FILE = ("first_stage", "adapter"), ("weights", "sha256")
_TYPED = 1_000  # rows of a list to look at; the resolver refuses far shorter ones


def is_place(config: type, field: attrs.Attribute[Any]) -> bool:
    """True if a config's field names a place outside of the recipe: metadata ``place`` says so (True or False).

    Without it, a field with a kept hash (metadata ``sha256``) does, and a text with the name of one (``url``,
    ``weights``, ``vocab_file``).
    """
    said = field.metadata.get("place")
    return bool("sha256" in field.metadata or _called_like_one(config, field)) if said is None else bool(said)


def undeclared(config: type) -> list[str]:
    """Fields of a config with the name of a place and no metadata to say if they are one."""
    return [
        field.name
        for field in attrs.fields(config)
        if "place" not in field.metadata and ("sha256" in field.metadata or _called_like_one(config, field))
    ]


def _called_like_one(config: type, field: attrs.Attribute[Any]) -> bool:
    return bool(_LIKE.search(field.name)) and _holds_text(type_hints(config).get(field.name, field.type))


def _holds_text(kind: Any) -> bool:
    if kind in (str, None, Any):
        return True
    return get_origin(kind) is not None and any(_holds_text(arg) for arg in get_args(kind) if arg is not type(None))


def handed_on(plain: Plain) -> dict[str, Any]:
    """The plain values of a recipe with the names of local files in place of their paths: fit to leave this machine.

    Hashes stay as they are, and so do URLs, paths from the working folder, and prompts, whatever they begin with.
    """
    return {key: _handed_on(value) for key, value in plain.items()}


def _handed_on(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: each if key == "prompts" else _handed_on(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_handed_on(each) for each in value]
    return storage.without_folders(value) if isinstance(value, str) else value


def described(plain: Plain, catalog: Catalog) -> dict[str, Any]:
    """The model in a weights file's recipe: plain values without any place.

    Data, observers, metrics and storage are left out, and every field naming a place, of parts and of the trainers'
    settings. The rest is as it was, and as unchecked; :class:`ConfigError` if a part is named by a path.
    """
    out: dict[str, Any] = {}
    for key, value in renewed(plain).items():
        if key in OUTSIDE or (key == OBJECTIVE and _lacking(key, value, catalog)):
            continue
        if key in SINGLE:
            out[key] = _part(key, key, value, catalog)
        elif key in LISTS:
            rows = value if isinstance(value, list | tuple) else [value]
            if key == "auxiliary_losses":
                rows = [row for row in rows if not _lacking(LISTS[key], row, catalog)]
            out[key] = [_part(LISTS[key], f"{key}[{i}]", row, catalog) for i, row in enumerate(rows[:_TYPED])]
            out[key] += rows[_TYPED:]
        elif key in SECTIONS and isinstance(value, Mapping):
            out[key] = _without_places(SECTIONS[key], value)
        else:
            out[key] = value
    return out


def _lacking(kind: str, value: object, catalog: Catalog) -> bool:
    """True if a file names no loss of first stages, or one that is not installed: a trained model goes without."""
    use = value.get("use") if isinstance(value, Mapping) else value
    return not isinstance(use, str) or (not is_weights(use) and _component(kind, use, catalog) is None)


def described_part(kind: str, plain: Plain, catalog: Catalog) -> dict[str, Any]:
    """One part of a file's recipe without its places; ``use`` names the component."""
    found: dict[str, Any] = _part(kind, kind, plain, catalog)
    return found


def _part(kind: str, path: str, value: Any, catalog: Catalog) -> Any:
    if isinstance(value, str):
        value = {"use": value}
    if not isinstance(value, Mapping):
        return value
    use = value.get("use") or DEFAULTS.get(kind)
    if not isinstance(use, str):
        return {key: each for key, each in value.items() if key not in _OF_A_FILE}
    if is_weights(use):
        raise ConfigError(f"{path}: the file's recipe names a path in place of a component, which is not read")
    component = _component(kind, use, catalog)
    own = {key: each for key, each in value.items() if not (kind in _WITH_FILES and key in _OF_A_FILE)}
    if kind == "conditioner" and (spoils := own.pop("degradation", None)) is not None:
        if component is not None and any(field.name == "degradation" for field in attrs.fields(component.config)):
            own["degradation"] = spoils  # a setting of its own
        elif not _lacking("degradation", spoils, catalog):  # a trained model goes without
            own["degradation"] = _part("degradation", f"{path}.degradation", spoils, catalog)
    if component is None:  # not installed: the look-up says so
        return {key: each for key, each in own.items() if not _LIKE.search(str(key))}
    return _without_places(component.config, own)


def _component(kind: str, use: str, catalog: Catalog) -> Component | None:
    try:
        return catalog.get(kind, use)[0].component
    except ComponentError:
        return None


def _without_places(config: type, value: Mapping[str, Any]) -> dict[str, Any]:
    fields = {field.name: field for field in attrs.fields(config)}
    inner = inner_configs(config)
    out: dict[str, Any] = {}
    for key, each in value.items():
        field = fields.get(key)
        if field is None:
            out[key] = each
        elif not is_place(config, field):
            out[key] = _nested(inner[key], each) if key in inner else each
        elif each and field.metadata.get("place") == "whether":
            out[key] = ELSEWHERE
    return out


def _nested(inner: type, value: Any) -> Any:
    """A config within a config, or a list of them, is held to the same."""
    if isinstance(value, list | tuple):
        return [_nested(inner, row) for row in value]
    value = spelled(inner, value)
    return _without_places(inner, value) if isinstance(value, Mapping) else value


def known_by_content(config: Any) -> Iterator[str]:
    """The places in a config, and in those within it, whose files count by their content in place of their names."""
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        if attrs.has(type(value)):
            yield from known_by_content(value)
        elif value and field.metadata.get("place") == "whether":
            yield value


def unnamed(config: Any) -> bool:
    """True if a part's config has a field for a place, and none in it."""
    return attrs.has(type(config)) and any(
        is_place(type(config), field) and not getattr(config, field.name) for field in attrs.fields(type(config))
    )


@contextmanager
def described_by(where: str) -> Iterator[None]:
    """The recipe in the file at `where`, made of its plain values: whatever its numbers lead a part to raise is the
    file's fault, a :class:`CheckpointError`. Errors of the package's own go on as they are."""
    try:
        yield
    except LDMError:
        raise
    except _FAULTS as error:
        raise CheckpointError(
            f"{where}: its recipe describes nothing that can be built ({type(error).__name__}: "
            f"{clean(error, 160)}); the file is damaged, or was changed"
        ) from error


_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)


def typed(settings: Sequence[str], catalog: Catalog) -> list[str]:
    """The ``KEY=VALUE`` settings with a place of a part in a list (``conditioners.text.tokenizer=PATH``)."""
    found = []
    for setting in settings:
        keys = [key.strip() for key in setting.partition("=")[0].split(".")]
        if len(keys) == 3 and keys[0] in LISTS and _is_field(LISTS[keys[0]], keys[2], catalog):
            found.append(setting)
    return found


def _is_field(kind: str, name: str, catalog: Catalog) -> bool:
    return any(
        field.name == name and is_place(conf, field)
        for _, conf in catalog.configs(kind)
        for field in attrs.fields(conf)
    )
