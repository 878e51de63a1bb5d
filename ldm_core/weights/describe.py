"""Description of files of weights by their structure and values: nothing is run, no torch imported."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ldm_core.catalog import Catalog
from ldm_core.config import structure
from ldm_core.contracts.codec import Recognised, Source, TensorFile, TensorInfo
from ldm_core.contracts.values import EMPTY
from ldm_core.errors import LDMError
from ldm_core.model.finite import bad_in_file
from ldm_core.recipe.artifacts import PRESETS, SUFFIXES

MOST_FILES = 12
"""Files of a folder that are opened; the others are counted."""
_MOST_PARTS = 12
_MOST_SINGLE = 3  # tensors that belong to no part, which are listed one by one
_LONGEST = 200  # characters of a metadata value
_OWN = "ldm_core"
_AVERAGES = ("model_ema.", "ema.", "ema/")
_OF_A_RUN = ("checkpoints/", "latents/", "snapshots/")


def tensor_files(source: Source) -> list[str]:
    """The files of tensors in a folder; several that an index makes one stand as that index. Of a run's folder, its
    training state is left out."""
    names = [n for n in source.names if not n.startswith(_OF_A_RUN)]
    indices = [n for n in names if n.endswith(".json") and ".index" in n.rpartition("/")[2]]
    covered = {
        f"{index.rpartition('/')[0]}/{shard}".lstrip("/") for index in indices for shard in _shards(source, index)
    }
    return indices + [n for n in names if n.endswith(SUFFIXES) and n not in covered]


def _shards(source: Source, index: str) -> Iterator[str]:
    with contextlib.suppress(LDMError):  # one that does not read is said where it is opened
        places = (source.config(index) or {}).get("weight_map")
        yield from map(str, places.values() if isinstance(places, Mapping) else ())


def file_facts(name: str, file: TensorFile) -> dict[str, Any]:
    """One file of tensors as plain values: container, bytes, counts by type and by part, averages, metadata."""
    own = {n: info for n, info in file.infos.items() if not n.startswith(_AVERAGES)}
    averages = {n: info for n, info in file.infos.items() if n not in own}
    dtypes: dict[str, int] = {}
    for info in file.infos.values():
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + 1
    return {
        "name": name,
        "container": file.container,
        "bytes": sum(info.nbytes for info in file.infos.values()),
        "tensors": len(file.infos),
        "parameters": _count(own),
        "dtypes": dict(sorted(dtypes.items(), key=lambda each: -each[1])),
        "parts": _parts(own),
        "averages": {"tensors": len(averages), "parameters": _count(averages)},
        "metadata": {k: _short(v) for k, v in file.metadata.items() if k not in (_OWN, PRESETS)},
        "written_by_ldm_core": _OWN in file.metadata,
        "ignored": dict(getattr(file, "ignored", EMPTY)),
        **_values(file),
    }


def _values(file: TensorFile) -> dict[str, Any]:
    """Names and number of tensors with values that are not finite; the reason, if not all of them can be read."""
    try:
        return {"not_finite": {name: each.count for name, each in bad_in_file(file).items()}}
    except LDMError as error:
        return {"not_finite": {}, "unread": str(error)}


def _short(text: str) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text[: _LONGEST + 1])
    return plain if len(plain) <= _LONGEST else plain[:_LONGEST] + "..."


def _count(infos: Mapping[str, TensorInfo]) -> int:
    return sum(math.prod(info.shape) for info in infos.values())


def _parts(infos: Mapping[str, TensorInfo]) -> dict[str, int]:
    """Parameters by what names begin with, as far as all of a part's names share it; the largest, then the rest."""
    groups: dict[str, dict[str, TensorInfo]] = {}
    for name, info in infos.items():
        groups.setdefault(name.partition(".")[0], {})[name] = info
    single = [head for head, members in groups.items() if head in members]
    counts: dict[str, int] = {}
    if len(single) > _MOST_SINGLE and len(single) < len(groups):  # a schedule's tables, beside networks
        alone = {name: info for head in single for name, info in groups.pop(head).items()}
        counts[f"({len(alone)} single tensors)"] = _count(alone)
    for head, members in groups.items():
        label = _shared(head, list(members)) if len(members) > 1 else head
        counts[label] = _count(members)
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    kept = dict(ordered[:_MOST_PARTS])
    if rest := ordered[_MOST_PARTS:]:
        kept[f"({len(rest)} others)"] = sum(count for _, count in rest)
    return kept


def _shared(head: str, names: Sequence[str]) -> str:
    split = [name.split(".")[:-1] for name in names]
    depth = 1
    while all(len(parts) > depth and parts[depth] == split[0][depth] for parts in split):
        depth += 1
    return ".".join(split[0][:depth]) if all(split) else head


def recognised(source: Source, catalog: Catalog, codec: str = "", options: Mapping[str, Any] = EMPTY) -> dict[str, Any]:
    """Answers of the installed codecs as plain values; ``{"error": ...}`` if none knows these weights."""
    from ldm_core.weights.codecs import recognise

    try:
        name, _, found = recognise(source, catalog, codec, options)
    except LDMError as error:
        return {"error": str(error)}
    return {"codec": name, **_plain(found)}


def _plain(found: Recognised) -> dict[str, Any]:
    return {
        "what": found.what,
        "holds": found.holds,
        "averages": found.ema,
        "parameters": dict(found.parameters),
        "unknown": {key: [structure.unstructure(each) for each in values] for key, values in found.unknown.items()},
        "notes": list(found.notes),
        "recipe": structure.unstructure(found.recipe),
    }


def facts(source: Source) -> dict[str, Any]:
    """Content of the containers, as plain values; an unreadable file of a folder has an ``error``."""
    if not source.folder:
        return {"url": source.url, "folder": False, "files": [file_facts("", source.tensors())]}
    names = tensor_files(source)
    found = list(_of_folder(source, names[:MOST_FILES]))
    return {"url": source.url, "folder": True, "files": found, "more_files": len(names) - len(found)}


def _of_folder(source: Source, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        try:
            yield file_facts(name, source.tensors(name))
        except LDMError as error:
            yield {"name": name, "error": str(error)}
