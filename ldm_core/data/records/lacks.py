"""Reasons for keys missing in stored data: the files and fields found instead, and the setting that takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ldm_core.contracts.values import SIZE_KEYS
from ldm_core.data.records.sources import CAPTION_FIELDS
from ldm_core.errors import clean

if TYPE_CHECKING:
    from ldm_core.data.records.sources import Source
    from ldm_core.data.records.store import Sample

_LOOKED_AT = 100  # samples whose fields are listed
_LISTED = 12
_MOST_FIELDS, _LONGEST = 200, 60


def lacking(
    title: str,
    found: Iterable[str],
    samples: Sequence[Sample],
    fields: Sequence[Mapping[str, Any] | None],
    box_labels: bool = False,
) -> dict[str, str]:
    """``caption``, ``class_label`` and names of fields, where they are not in `found` -> why, and what to do.

    `box_labels`: the ``.txt`` are no captions.
    """
    out = {
        name: f"{title} has a field '{name}', which is read when it is asked for: dataset.read='{{{name}: {name}}}'"
        for name in sorted({str(name) for known in fields[:_LOOKED_AT] for name in known or ()})[:_MOST_FIELDS]
        if name.isidentifier() and len(name) <= _LONGEST and name not in {*found, *SIZE_KEYS, "file_name"}
    }
    if "caption" not in found:
        named = _fields(fields[:_LOOKED_AT])
        example = next((name.partition(" ")[0] for name in named if not name.endswith(")")), "title")
        fix = f"say which field holds it, such as dataset.read='{{caption: {example}}}'"
        beside = f"{title} has no .txt beside the pictures"
        if box_labels:
            beside = f"the .txt of {title} are labels of boxes and no captions,"
        out["caption"] = f"{beside} and no field {' or '.join(CAPTION_FIELDS)} of text" + (
            f"; fields are {', '.join(named)}; {fix}" if named else " in JSON or metadata; add one of these"
        )
    if "class_label" not in found:
        folders = sorted({sample.name.partition("/")[0] for sample in samples if "/" in sample.name})
        alone = all("/" in sample.name for sample in samples) and len(folders) == 1
        one = f"all pictures lie in one folder, '{clean(folders[0], 60)}'" if alone else ""
        there = one or "no folders tell classes apart"
        out["class_label"] = (
            f"in {title} {there}, and there is no .cls and no field class_label or label; put the pictures of each "
            "class in a folder of its own, two or more of them"
        )
    return out


def unread(read: Mapping[str, Sequence[Source]], fields: Sequence[Mapping[str, object] | None]) -> str:
    """The remark on fields that none of the keys in `read` takes; empty if there are none."""
    named = [place for sources in read.values() for source in sources for place in (source.field, *source.also)]
    taken = {place[0] for place in named if place} | {"file_name"}
    rest = _fields([{k: v for k, v in (known or {}).items() if k not in taken} for known in fields[:_LOOKED_AT]])
    return f"fields that no key reads: {', '.join(rest)} (dataset.read names them)" if rest else ""


def _fields(fields: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """The names of fields, dotted if they lie deeper, with the type of those other than text."""
    seen: dict[str, str] = {}
    for known in fields:
        _collect(known or {}, "", seen)
    named = [clean(name, 60) + (f" ({kind})" if kind else "") for name, kind in sorted(seen.items())]
    return named[:_LISTED] + ([f"and {len(named) - _LISTED} more"] if len(named) > _LISTED else [])


def _collect(value: Mapping[str, Any], prefix: str, seen: dict[str, str]) -> None:
    for name, inside in value.items():
        if isinstance(inside, Mapping) and prefix.count(".") < 2:
            _collect(inside, f"{prefix}{name}.", seen)
        elif name != "file_name" or prefix:
            text = isinstance(inside, str) or inside is None
            seen.setdefault(f"{prefix}{name}", "" if text else _kind(inside))


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"list of {_kind(value[0])}s" if value else "list"
    return {str: "text", bool: "true or false", dict: "object"}.get(type(value), "number")
