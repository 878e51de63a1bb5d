"""Settings of the readers of stored data (tar, folder). Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.config.structure import unstructure
from ldm_core.contracts import DatasetConfig
from ldm_core.errors import quoted

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


def annotation_parts(value: str | Mapping[str, Any]) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """The setting as (format or "", files, settings of the format). ValueError for one that is none of a path and a
    mapping with `files`."""
    if isinstance(value, str):
        return "", (value,), {}
    files, use = value.get("files"), value.get("use", "")
    listed = [files] if isinstance(files, str) else files if isinstance(files, list | tuple) else []
    if not listed or not all(isinstance(each, str) and each.strip() for each in listed) or not isinstance(use, str):
        raise ValueError(
            f"annotations: expected a path, or a mapping such as {{files: boxes.json}}, with `use` for the format, got "
            f"{quoted(unstructure(value), 80)}"
        )
    return use, tuple(listed), {k: v for k, v in value.items() if k not in ("files", "use")}


def _annotations(_: object, attribute: attrs.Attribute[Any], value: str | Mapping[str, Any]) -> None:
    if value:
        annotation_parts(value)


def _geometries(_: object, attribute: attrs.Attribute[Mapping[str, str]], value: Mapping[str, str]) -> None:
    for key, kind in value.items():
        if kind not in _GEOMETRIES:
            raise ValueError(f"{attribute.name}.{key}: '{kind}' is none of {', '.join(_GEOMETRIES)}")


@attrs.frozen(kw_only=True)
class ReadingConfig(DatasetConfig):
    """Settings that both readers share; not a component by itself."""

    url: str = attrs.field(
        validator=_not_empty,
        metadata={"help": "path or fsspec URL; {000000..000003}, {a,b}, * and ? are expanded", "place": True},
    )
    split: str = field(
        "train",
        "split that is read, by a name in shards (-train-) or a sub-folder (train); without names all is train",
    )
    read: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata={
            "help": "key -> its source: an extension (caption: title for .title) or a field of the .json or the "
            "metadata row (caption: name, or json.name; dots go deeper), or several of their texts: 'name, keywords'"
        },
    )
    geometry: Mapping[str, str] = attrs.field(
        factory=dict,
        validator=_geometries,
        metadata={"help": f"geometry of further keys of read: {', '.join(_GEOMETRIES)}; by default image or value"},
    )
    classes: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata={
            "help": "key -> the file beside the data that lists its classes (class_label: types.json), or their "
            'number (class_label: "10"); classes.json is found by itself'
        },
    )
    annotations: str | Mapping[str, Any] = attrs.field(
        default="",
        validator=_annotations,
        metadata={
            "help": "files of boxes that another tool wrote (COCO, OpenImages, Pascal VOC, YOLO): path of a file, a "
            "folder or a pattern, in the data or of its own; {use: coco, files: PATH} names the format and settings",
            "place": True,
            "since": "0.2",
        },
    )
    palette: str = attrs.field(
        default="",
        metadata={
            "help": "file beside the data that lists the colours of label maps: [[r, g, b], ...] in the order of the "
            "classes, {name: [r, g, b]}, or lines of `r g b name`",
            "place": False,
            "since": "0.2",
        },
    )
    box_format: Literal["xyxy", "xywh"] = field("xyxy", "numbers of a box: two corners, or a corner and the size")
    box_units: Literal["fraction", "pixel"] = field("fraction", "unit of those numbers")
    white_level: float = attrs.field(
        default=0.0,
        validator=_level,
        metadata={
            "help": "level of white in grey pictures of more than 8 bits, such as 4095; 0 = the format's largest "
            "(65535; 1 or 255 of numbers with a fraction)",
            "since": "0.2",
        },
    )
    missing: Literal["error", "skip"] = field("error", "samples that lack a key which others have: stop, or leave out")
    max_bad: float = attrs.field(
        default=0.01,
        validator=_share,
        metadata={"help": "share of examples that may be undecodable (at least one, unless 0) before reading stops"},
    )
