"""The files of a folder: a component's config and weights, whatever their container, variant and number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_core.contracts.codec import Source, TensorFile
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.weights import Stored

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_ENDS = ("safetensors", "bin")


def config_of(source: Source, name: str) -> Mapping[str, Any]:
    """A JSON file as plain values; CheckpointError where it is missing or no mapping."""
    found = source.config(name)
    if found is None:
        raise CheckpointError(f"{source.url}: {name} is missing; copy the folder again")
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{source.url}: {name} is no JSON object")
    return found


def stored_in(source: Source, folder: str, variant: str = "") -> tuple[Stored, list[str]]:
    """The tensors of a component in `folder` ("" = the source itself), and what is to be said of the choice.

    Safetensors before pickles, one file before several; the plain weights unless `variant` names others, or there is
    one variant alone. CheckpointError where there are none, ConfigError where the variants are several.
    """
    prefix = f"{folder}/" if folder else ""
    where = folder or "the folder"
    if not source.folder:
        return Stored.of([source.tensors()], source.url), []
    names = {n.removeprefix(prefix) for n in source.names if n.startswith(prefix)}
    names = {n for n in names if "/" not in n}
    files = _files(source, prefix, names, variant)
    if files is not None:
        return Stored.of(files, where), []
    others = sorted(_variants(names) - {variant})
    if variant or len(others) > 1:
        words = ", ".join(others) or "the plain one"
        raise ConfigError(f"{where}: no weights of variant '{variant}'; set codec.variant to one of: {words}")
    files = _files(source, prefix, names, others[0]) if others else None
    if files is None:
        raise CheckpointError(f"{source.url}: {where} has no weights; expected {_STEMS[0]}.safetensors or the like")
    return Stored.of(files, where), [f"{where}: weights of the variant {others[0]}, the only ones there"]


def has_weights(source: Source, folder: str) -> bool:
    """Whether `folder` holds a file that looks like weights."""
    return any(n.startswith(f"{folder}/") and n.endswith(_ENDS) for n in source.names)


def _files(source: Source, prefix: str, names: set[str], variant: str) -> list[TensorFile] | None:
    dotted = f".{variant}" if variant else ""
    for end in _ENDS:
        for stem in _STEMS:
            if (name := f"{stem}{dotted}.{end}") in names:
                return [source.tensors(prefix + name)]
            for index in (f"{stem}.{end}.index{dotted}.json", f"{stem}{dotted}.{end}.index.json"):
                if index in names:
                    return [source.tensors(prefix + index)]  # all its files as one
    return None


def _variants(names: Sequence[str] | set[str]) -> set[str]:
    out = set()
    for name in names:
        parts = name.split(".")
        if len(parts) == 3 and parts[0] in _STEMS and parts[2] in _ENDS:
            out.add(parts[1])
        if len(parts) == 5 and parts[0] in _STEMS and parts[1] in _ENDS and parts[2] == "index":
            out.add(parts[3])
    return {v for v in out if v != "index"}
