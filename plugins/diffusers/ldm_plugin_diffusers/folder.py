"""A folder's files: the config and the weights of each component, in any container, variant and number of files."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ldm_core.contracts.codec import Source, TensorFile
from ldm_core.errors import CheckpointError, ConfigError
from ldm_plugin_diffusers.values import Plain
from ldm_plugin_diffusers.weights import Stored

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_ENDS = ("safetensors", "bin")


def as_json(plain: Plain) -> bytes:
    """A JSON file in diffusers' layout."""
    return (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode()


def config_of(source: Source, name: str) -> Plain:
    """A JSON file as plain values; CheckpointError where it is missing or no mapping."""
    found = source.config(name)
    if found is None:
        raise CheckpointError(f"{source.url}: {name} is missing; copy the folder again")
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{source.url}: {name} is no JSON object")
    return found


def stored_in(source: Source, folder: str, variant: str = "") -> tuple[Stored, list[str]]:
    """(tensors, notes) of the component in `folder` ("" = the source itself).

    Safetensors come before pickles, one file before several, plain weights before a variant. Without plain weights, the
    only variant is taken. CheckpointError without weights, ConfigError with several variants and no choice.
    """
    prefix = f"{folder}/" if folder else ""
    where = folder or "the folder"
    if not source.folder:
        return Stored.of(source.tensors(), source.url), []
    names = {n.removeprefix(prefix) for n in source.names if n.startswith(prefix)}
    names = {n for n in names if "/" not in n}
    file = _file(source, prefix, names, variant)
    if file is not None:
        return Stored.of(file, where), []
    others = sorted(_variants(names) - {variant})
    if variant or len(others) > 1:
        words = ", ".join(others) or "the plain one"
        raise ConfigError(f"{where}: no weights of variant '{variant}'; set codec.variant to one of: {words}")
    file = _file(source, prefix, names, others[0]) if others else None
    if file is None:
        raise CheckpointError(f"{source.url}: {where} has no weights; expected {_STEMS[0]}.safetensors or the like")
    return Stored.of(file, where), [f"{where}: weights of the variant {others[0]}, the only ones there"]


def _file(source: Source, prefix: str, names: set[str], variant: str) -> TensorFile | None:
    dotted = f".{variant}" if variant else ""
    for end in _ENDS:
        for stem in _STEMS:
            if (name := f"{stem}{dotted}.{end}") in names:
                return source.tensors(prefix + name)
            for index in (f"{stem}.{end}.index{dotted}.json", f"{stem}{dotted}.{end}.index.json"):
                if index in names:
                    return source.tensors(prefix + index)  # all its files as one
    return None


def _variants(names: set[str]) -> set[str]:
    out = set()
    for name in names:
        parts = name.split(".")
        if len(parts) == 3 and parts[0] in _STEMS and parts[2] in _ENDS:
            out.add(parts[1])
        if len(parts) == 5 and parts[0] in _STEMS and parts[1] in _ENDS and parts[2] == "index":
            out.add(parts[3])
    return {v for v in out if v != "index"}
