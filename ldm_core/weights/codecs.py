"""From foreign weights to a recipe, live modules and a pipeline: asks the installed codecs, and refuses what is unsure.

Torch is imported when tensors become modules, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts.codec import Codec, ModelWeights, Recognised, Source, overlay
from ldm_core.contracts.site import Site
from ldm_core.contracts.values import EMPTY
from ldm_core.errors import CheckpointError, ComponentError, ConfigError, LDMError, clean
from ldm_core.model.finite import warn_of
from ldm_core.recipe.places import described
from ldm_core.weights.given import require_described, require_pixels, require_settings

BROUGHT = ("ldm-plugin-compvis", "ldm-plugin-diffusers")
"""First-party distributions with codecs, for the answer where nothing knows a file."""
_FAULTS = (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, ArithmeticError)
"""Exceptions of a codec at a file other than it seemed."""


def make_codec(name: str, catalog: Catalog, options: Mapping[str, Any] = EMPTY) -> Codec:
    """The codec of this name with its `options`; ConfigError for options that it does not have."""
    entry, preset = catalog.get("codec", name)
    base = {} if preset is None else unstructure(preset)
    conf: Any = structure({**base, **options}, entry.component.config, "codec")
    try:
        made: Codec = entry.component.load()(conf, Site(size=(256, 256), catalog=catalog))
    except LDMError:
        raise
    except Exception as error:  # whatever a plugin's module raises when it is imported
        raise ComponentError(
            f"codec '{name}' of {entry.distribution} does not load: {type(error).__name__}: {error}"
        ) from error
    return made


def codec_names(catalog: Catalog) -> list[str]:
    """Names of the installed codecs, each once."""
    return list(dict.fromkeys(entry.component.name for entry in catalog if entry.component.kind == "codec"))


def recognise(
    source: Source, catalog: Catalog, codec: str = "", options: Mapping[str, Any] = EMPTY
) -> tuple[str, Codec, Recognised]:
    """The codec that knows `source`, and its answer; `codec` asks that one alone, with its `options`.

    Raises CheckpointError if none does, with the source's content and the installed codecs; ConfigError if several do.
    A codec that fails is named: in the error, or in the notes of the one that succeeds.
    """
    require_pixels(source.given)
    if not source.folder:
        source.tensors()  # a damaged file is said once, in its own words
    found: list[tuple[str, Codec, Recognised]] = []
    failed: dict[str, str] = {}
    for name in [codec] if codec else codec_names(catalog):
        try:
            made = make_codec(name, catalog, options if codec else _own_options(name, catalog, options))
            said = made.recognise(source)
        except ConfigError:
            raise
        except LDMError as error:
            failed[name] = str(error)
        except Exception as error:  # a codec's own fault must not hide what the others know
            failed[name] = f"{type(error).__name__}: {clean(error, 200)}"
        else:
            if said is not None:
                found.append((name, made, said))
    where = storage.shown(source.url)
    if len(found) > 1:
        rows = ", ".join(f"{name} ({said.what})" for name, _, said in found)
        raise ConfigError(f"{where}: several codecs know it: {rows}; say which with `codec={found[0][0]}`")
    if not found:
        raise CheckpointError(_nothing_found(source, where, codec, failed, catalog))
    name, made, said = found[0]
    notes = [f"codec '{other}' failed on it: {why}" for other, why in failed.items()]
    return name, made, attrs.evolve(said, notes=(*said.notes, *notes)) if notes else said


def _own_options(name: str, catalog: Catalog, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of this codec, out of those given for any of them."""
    entry, _ = catalog.get("codec", name)
    fields = {field.name for field in attrs.fields(entry.component.config)}
    return {key: value for key, value in options.items() if key in fields}


def _nothing_found(source: Source, where: str, codec: str, failed: Mapping[str, str], catalog: Catalog) -> str:
    if failed:
        rows = "; ".join(why if where in why else f"{name}: {why}" for name, why in failed.items())
        return f"{where}: could not be read as " + (f"{codec}: {rows}" if codec else rows)
    names = codec_names(catalog)
    if codec:
        others = [name for name in names if name != codec]
        more = f"; leave `codec` out to ask the others ({', '.join(others)})" if others else ""
        return f"{where}: is nothing that codec '{codec}' knows; it holds {seen(source)}{more}"
    lacking = [d for d in BROUGHT if d not in {e.distribution for e in catalog if e.component.kind == "codec"}]
    more = f"; others come with: pip install {' '.join(lacking)}" if lacking else ""
    return (
        f"{where}: no codec knows these weights{_addition_note(source)}; it holds {seen(source)} "
        f"(codecs: {', '.join(names)}{more})"
    )


def _addition_note(source: Source) -> str:
    """Words for an addition to a model that people take for a model; "" for all else."""
    if source.folder:
        return ""
    names = source.tensors().infos
    if any(".lora_down." in name or ".lora_up." in name or ".lora_A." in name for name in names):
        return ", which are a LoRA, an addition to a model; give a model that it was merged into"
    if "emb_params" in names or set(names) == {"*"}:
        return ", which are a textual inversion, a learned word for a model; give the model"
    return ""


def seen(source: Source) -> str:
    """In words, what a source holds: container and first parts of its names, or the files of a folder."""
    if source.folder:
        names = list(source.names)
        return f"{len(names)} files: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" if names else "no file"
    file = source.tensors()
    heads: dict[str, int] = {}
    for name in file.infos:
        head = name.partition(".")[0]
        heads[head] = heads.get(head, 0) + 1
    rows = [f"{head}.* ({count})" if count > 1 else head for head, count in list(heads.items())[:6]]
    total = "1 tensor" if len(file.infos) == 1 else f"{len(file.infos)} tensors"
    return f"{total} ({file.container}): {', '.join(rows)}{', ...' if len(heads) > 6 else ''}"


def require_known(found: Recognised, where: str) -> None:
    """ConfigError with the settings to add while something about a source is unknown."""
    if found.unknown:
        raise ConfigError(
            [
                f"{storage.shown(where)}: nothing says {path}; add {path}={_word(candidates)}"
                + (f" (one of: {', '.join(map(_text, candidates))})" if len(candidates) > 1 else "")
                for path, candidates in found.unknown.items()
            ]
        )


def _word(candidates: Sequence[Any]) -> str:
    return _text(candidates[0]) if candidates else "VALUE"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value)


def read(
    source: Source,
    catalog: Catalog,
    codec: str = "",
    partial: bool = False,
    options: Mapping[str, Any] = EMPTY,
) -> ModelWeights:
    """The weights of `source` in our names, its recipe with :attr:`Source.given` on top.

    Raises what :func:`recognise` raises; ConfigError while something is unknown, with the settings to add;
    CheckpointError for missing or unexpected names, unless `partial` turns them into notes.
    """
    name, made, found = recognise(source, catalog, codec, options)
    require_known(found, source.url)
    return read_with(name, made, found, source, catalog, partial)


def read_with(
    name: str, codec: Codec, found: Recognised, source: Source, catalog: Catalog, partial: bool = False
) -> ModelWeights:
    """:func:`read` with a known codec and its answer."""
    where = storage.shown(source.url)
    require_settings(found.recipe, source.given, catalog)
    try:
        weights = codec.read(source)
    except LDMError:
        raise
    except _FAULTS as error:
        require_described(found.recipe, where, catalog)
        advice = f"check the settings that were given ({clean(', '.join(source.given), 100)})" if source.given else ""
        raise CheckpointError(
            f"{where}: codec '{name}' could not read it ({type(error).__name__}: {clean(error, 200)}); "
            f"{advice or 'is it damaged?'}"
        ) from error
    warn_of(weights.tensors, where)
    lines = [
        f"{len(names)} {what} (e.g. {', '.join(list(names)[:3])})"
        for what, names in (("missing", weights.missing), ("unexpected", weights.unexpected))
        if names
    ]
    if lines and not partial:
        raise CheckpointError(
            f"{where}: recognised as {found.what}, but its tensors are not those of it: {'; '.join(lines)}"
        )
    notes = [*found.notes, *(n for n in weights.notes if n not in found.notes), *(f"taken in part: {x}" for x in lines)]
    recipe = overlay(described(weights.recipe, catalog), source.given)  # places are the user's to name
    return attrs.evolve(weights, recipe=recipe, notes=tuple(notes))
