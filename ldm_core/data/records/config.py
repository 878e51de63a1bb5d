"""What the readers of stored data (tar, folder) are told. Imports attrs only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

_GEOMETRIES = ("image", "map", "boxes", "per_box", "value")


def _not_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value.strip():
        raise ValueError(f"{attribute.name}: empty; give a path or a URL (`dataset`)")


def _share(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name}: expected a share, 0 or more and below 1, got {value}")


def _level(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{attribute.name}: expected a level above 0, or 0 for that of the format, got {value}")


def _geometries(_: object, attribute: attrs.Attribute[Mapping[str, str]], value: Mapping[str, str]) -> None:
    for key, kind in value.items():
        if kind not in _GEOMETRIES:
            raise ValueError(f"{attribute.name}.{key}: '{kind}' is none of {', '.join(_GEOMETRIES)}")


@attrs.frozen(kw_only=True)
class ReadingConfig:
    """Settings that both readers share; not a component by itself."""

    url: str = attrs.field(validator=_not_empty, metadata={"place": True})
    """A path or any fsspec URL; ``{000000..000003}``, ``{a,b}``, ``*`` and ``?`` are expanded."""
    split: str = "train"
    """Which of the splits found by name is read: ``-train-`` in shard names, or a sub-folder ``train``. Where
    no name tells splits apart, everything is ``train``."""
    read: Mapping[str, str] = attrs.field(factory=dict)
    """Our key -> where to find it: another extension (``caption: title`` for ``.title``), a field of the
    ``.json`` or the metadata row (``caption: name``, or ``json.name`` to be plain; dots go deeper)."""
    geometry: Mapping[str, str] = attrs.field(factory=dict, validator=_geometries)
    """Geometry of further keys in ``read``; by default ``image`` for a picture and ``value`` for all else."""
    classes: Mapping[str, str] = attrs.field(factory=dict)
    """Key -> the file beside the data that lists its classes (``class_label: cell_types.json``), or their
    number (``class_label: "10"``). ``classes.json`` is used by itself where it is there."""
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    box_units: Literal["fraction", "pixel"] = "fraction"
    white_level: float = attrs.field(default=0.0, validator=_level, metadata={"later": True})
    """The level that is white in grey pictures of more than 8 bits, such as 4095 where 12 bits lie in 16; 0: the
    most that the format holds (65535; 1 or 255 of numbers with a fraction)."""
    missing: Literal["error", "skip"] = "error"
    """What to do with samples that lack a key that is asked for and that others have."""
    max_bad: float = attrs.field(default=0.01, validator=_share)
    """Share of examples that may turn out undecodable (at least one may, unless 0) before reading stops."""
