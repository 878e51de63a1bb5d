"""The columns of a file by their purpose: pictures, captions, classes, boxes; names of classes from the metadata.

Columns count by type first and by name then; features of Hugging Face's ``datasets`` in the schema
(``{"info": {"features": ...}}`` under the key ``huggingface``) name the classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ldm_core.config.documents import parse_json
from ldm_core.errors import DataError, LDMError, clean

Kind = Literal["picture", "text", "class", "boxes", "classes", "vector", "value"]
_MOST_NAMES = 1 << 20
_NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo"),
    "caption": ("caption", "text", "captions"),
    "class_label": ("class_label", "label", "labels", "class"),
    "boxes": ("boxes", "bboxes", "objects.bbox", "objects.boxes", "objects.bboxes"),
    "box_labels": ("box_labels", "objects.category", "objects.categories", "objects.label", "objects.labels"),
    "segmentation": ("segmentation", "segmentation_map", "annotation"),
    "mask": ("mask",),
    "embedding": ("embedding",),
}
"""Key -> its columns; the first one of the right type is taken."""
_KINDS: Mapping[str, Kind] = {
    "image": "picture",
    "caption": "text",
    "class_label": "class",
    "boxes": "boxes",
    "box_labels": "classes",
    "segmentation": "picture",
    "mask": "picture",
    "embedding": "vector",
}


@attrs.frozen
class Column:
    """The place of a key's values: `path`, a column and the fields in it. `names`: of its classes, if known."""

    path: tuple[str, ...]
    kind: Kind
    names: tuple[str, ...] = ()
    leaf: str = ""
    """The stored column with the nulls of its values, if it is one alone."""

    @property
    def read(self) -> str:
        """The column to be read for it."""
        return f"{self.path[0]}.bytes" if self.leaf.endswith(".bytes") else self.path[0]

    def value(self, cell: Any) -> Any:
        """The value in a cell of its column, or None."""
        names = (*self.path[1:], "bytes") if self.leaf.endswith(".bytes") else self.path[1:]
        for name in names:
            if isinstance(cell, list):
                cell = [each.get(name) if isinstance(each, dict) else None for each in cell]
            else:
                cell = cell.get(name) if isinstance(cell, dict) else None
        return cell

    def filled(self, piece: Any) -> NDArray[np.bool_]:
        """True for each cell with a value, of a piece of its column."""
        if self.leaf and "." not in self.leaf:
            return np.asarray(piece.is_valid())
        values = (self.value(cell) for cell in piece.to_pylist())
        return np.fromiter((value is not None for value in values), dtype=bool, count=len(piece))


def columns_of(schema: pa.Schema, read: Mapping[str, str], where: str) -> dict[str, Column]:
    """Key -> its column. DataError for no pictures, several columns of them, and a key of `read` without its column."""
    features = _features(schema)
    found: dict[str, Column] = {}
    for key, names in _NAMES.items():
        named = [read[key]] if key in read else names
        column = next((c for name in named if (c := _column(schema, features, name, _KINDS[key]))), None)
        if column is None and key in read:
            raise DataError(_no_column(schema, key, read[key], where))
        if column is not None:
            found[key] = column
    for key in read.keys() - _NAMES.keys():
        column = _column(schema, features, read[key], "value")
        if column is None:
            raise DataError(_no_column(schema, key, read[key], where))
        found[key] = column
    taken = {column.path for column in found.values()}
    if "image" not in found:
        pictures = [n for n in schema.names if (n,) not in taken and _column(schema, features, n, "picture")]
        if len(pictures) != 1:
            few = ", ".join(clean(name, 40) for name in pictures) or "none of bytes"
            fix = f"say which, with dataset.read='{{image: {clean(pictures[0], 40)}}}'" if pictures else _listed(schema)
            raise DataError(f"{where}: no column called image; columns of pictures: {few}; {fix}")
        found["image"] = _require(_column(schema, features, pictures[0], "picture"))
    if "class_label" not in found:
        classes = [n for n in schema.names if _names(features.get(n)) and (n,) not in taken]
        if len(classes) == 1 and (column := _column(schema, features, classes[0], "class")):
            found["class_label"] = column
    return found


def _require(column: Column | None) -> Column:
    assert column is not None
    return column


def _no_column(schema: pa.Schema, key: str, name: str, where: str) -> str:
    kind = _KINDS.get(key, "value")
    what = {"picture": "bytes of pictures", "vector": "lists of numbers", "boxes": "lists of boxes"}.get(
        kind, "such values"
    )
    return f"{where}: read.{clean(key, 40)}: no column '{clean(name, 60)}' of {what}; {_listed(schema)}"


def _listed(schema: pa.Schema) -> str:
    few = [f"{clean(field.name, 40)} ({clean(field.type, 60)})" for field in list(schema)[:12]]
    return f"there are {', '.join(few)}" + (", ..." if len(schema) > 12 else "")


def _column(schema: pa.Schema, features: Mapping[str, Any], name: str, kind: Kind) -> Column | None:
    """The column of this name if its type goes with `kind`."""
    path = (name,) if name in schema.names else tuple(name.split("."))
    if schema.names.count(path[0]) != 1:
        return None
    inside, feature, depth = schema.field(path[0]).type, features.get(path[0]), 0
    for part in path[1:]:
        while _is_list(inside):
            inside, depth = inside.value_type, depth + 1
            feature = _within(feature)
        if not pa.types.is_struct(inside) or inside.get_field_index(part) < 0:
            return None
        inside = inside.field(part).type
        feature = feature.get(part) if isinstance(feature, Mapping) else None
    if not _fits(inside, depth, kind):
        return None
    leaf = ".".join(path)
    if kind == "picture":
        leaf = f"{leaf}.bytes" if pa.types.is_struct(inside) else leaf
    names = _names(feature) or _names(_within(feature))
    return Column(path, kind, names if kind in ("class", "classes") else (), "" if depth or _is_list(inside) else leaf)


def _fits(kind_of: pa.DataType, depth: int, kind: Kind) -> bool:
    """True if a type holds values of `kind`; `depth` lists are around it."""
    while kind != "value" and _is_list(kind_of):
        kind_of, depth = kind_of.value_type, depth + 1
    if kind == "picture":
        if pa.types.is_struct(kind_of) and (place := kind_of.get_field_index("bytes")) >= 0:
            kind_of = kind_of.field(place).type
        return not depth and (pa.types.is_binary(kind_of) or pa.types.is_large_binary(kind_of))
    text = pa.types.is_string(kind_of) or pa.types.is_large_string(kind_of)
    whole = pa.types.is_integer(kind_of)
    if kind == "text":
        return depth < 2 and text
    if kind == "class":
        return not depth and (whole or text)
    if kind == "classes":
        return depth == 1 and (whole or text)
    if kind == "boxes":
        return depth == 2 and (whole or pa.types.is_floating(kind_of))
    return kind == "value" or (depth in (1, 2) and pa.types.is_floating(kind_of))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """The features by ``datasets``; none if they do not read."""
    text = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        found = parse_json(text, "features", DataError)["info"]["features"] if text else {}
    except (LDMError, LookupError, TypeError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _within(feature: Any) -> Any:
    """The feature of a list's items, in every form of ``datasets``."""
    if isinstance(feature, list):
        return feature[0] if len(feature) == 1 else None
    if isinstance(feature, Mapping) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        return feature.get("feature")
    return feature


def _names(feature: Any) -> tuple[str, ...]:
    """The names of a ``ClassLabel``; none for any other feature, and for odd names."""
    if not isinstance(feature, Mapping) or feature.get("_type") != "ClassLabel":
        return ()
    names = feature.get("names")
    if not isinstance(names, Sequence) or isinstance(names, str) or not 0 < len(names) <= _MOST_NAMES:
        return ()
    good = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return tuple(names) if good else ()


def said_of(columns: Mapping[str, Column]) -> str:
    """The columns as text, for a hash."""
    return json.dumps({key: [list(c.path), c.kind, list(c.names)] for key, c in columns.items()}, sort_keys=True)
