"""COCO's JSON of instances."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ldm_core.config.documents import parse_json
from ldm_core.contracts import Annotated, AnnotationFiles, AnnotationFormat, Annotations, Site
from ldm_core.errors import DataError, quoted
from ldm_plugin_annotations.config import CocoConfig

MOST_VALUES = 100_000_000
"""Values of a file; that of COCO's 118,000 training pictures has about half of it, with all outlines."""
_HEAD = 1 << 16
_MOST = 1e9  # pixels of a side or a corner
_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[|"info"\s*:\s*\{')


class Coco(AnnotationFormat):
    """``images`` with id, file_name and sizes, ``annotations`` with image_id, category_id and bbox, ``categories``.

    Boxes are x, y, width and height in pixels. A listed picture without annotations has no objects.
    """

    def __init__(self, config: CocoConfig, site: Site) -> None:
        self.config = config

    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        """The JSON files that begin as COCO's do."""
        named = [name for name in files.names if name.lower().endswith(".json")]
        return [name for name in named if _KEYS.search(files.read(name, _HEAD))]

    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        """Read the files; their categories must be the same."""
        read = [_Instances.of(parse_json(files.read(n), n, DataError, most=MOST_VALUES), n) for n in names]
        first = read[0]
        for other in read[1:]:
            if other.categories != first.categories:
                raise DataError(f"{other.name}: has other categories than {first.name}; give one of the files")
        left_out = Counter[str]()
        numbers = {identity: number for number, identity in enumerate(sorted(first.categories))}
        rows = (row for each in read for row in each.rows(numbers, self.config.crowds, left_out))
        return Annotations(rows=rows, class_names=[first.categories[i] for i in sorted(numbers)], left_out=left_out)


@attrs.frozen(eq=False)
class _Instances:
    """A file: `categories` id -> name, `images` and `annotations` as they are stored."""

    name: str
    categories: Mapping[int, str]
    images: Mapping[Any, tuple[str, tuple[float, float] | None]]
    annotations: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, value: Any, name: str) -> _Instances:
        listed = [value.get(key) if isinstance(value, dict) else None for key in ("images", "categories")]
        for key, rows in zip(("images", "categories"), listed, strict=True):
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise DataError(
                    f"{name}: has no list of '{key}'; COCO's instances have images, categories, annotations; "
                    "name their file alone, such as annotations/instances_train2017.json"
                )
        rows = value.get("annotations", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{name}: 'annotations' is no list of objects")
        categories, called = dict[int, str](), set[str]()
        for row in listed[1] or ():
            if not isinstance(row.get("id"), int) or not isinstance(row.get("name"), str):
                raise DataError(f"{name}: the category {quoted(row, 60)} needs a number 'id' and a text 'name'")
            if row["id"] in categories or row["name"] in called:
                raise DataError(f"{name}: the category {quoted(row, 60)} is there twice")
            called.add(row["name"])
            categories[row["id"]] = row["name"]
        images: dict[Any, tuple[str, tuple[float, float] | None]] = {}
        for row in listed[0] or ():
            if not isinstance(row.get("id"), int | str) or not isinstance(row.get("file_name"), str):
                raise DataError(f"{name}: the image {quoted(row, 80)} needs an 'id' and a text 'file_name'")
            if row["id"] in images:
                raise DataError(f"{name}: the image id {quoted(row['id'], 40)} is there twice")
            images[row["id"]] = row["file_name"], _size(row)
        return cls(name, categories, images, rows)

    def rows(self, numbers: Mapping[int, int], crowds: bool, left_out: Counter[str]) -> Iterator[Annotated]:
        """One row a picture, in the order of the pictures."""
        found: dict[Any, tuple[list[list[float]], list[int]]] = {identity: ([], []) for identity in self.images}
        for row in self.annotations:
            identity = row.get("image_id")
            if not isinstance(identity, int | str) or identity not in found:
                raise DataError(f"{self._of(row)}: image_id {quoted(identity, 40)} is none of 'images'")
            category = row.get("category_id")
            if not isinstance(category, int) or category not in numbers:
                raise DataError(f"{self._of(row)}: category_id {quoted(row.get('category_id'), 40)} is no category")
            if row.get("iscrowd") and not crowds:
                left_out["crowd region"] += 1
                continue
            boxes, labels = found[identity]
            boxes.append(self._corners(row))
            labels.append(numbers[category])
        for identity, (boxes, labels) in found.items():
            name, size = self.images[identity]
            yield Annotated(picture=name, boxes=boxes, labels=labels, units="pixel", size=size, place=self.name)

    def _corners(self, row: Mapping[str, Any]) -> list[float]:
        box = row.get("bbox")
        numbers = box if isinstance(box, list) and len(box) == 4 else []
        if not numbers or any(isinstance(n, bool) or not isinstance(n, int | float) or abs(n) > _MOST for n in numbers):
            raise DataError(f"{self._of(row)}: bbox is {quoted(box, 60)}, expected [x, y, width, height] in pixels")
        x, y, width, height = map(float, numbers)
        return [x, y, x + width, y + height]

    def _of(self, row: Mapping[str, Any]) -> str:
        return f"{self.name}: annotation {quoted(row.get('id'), 30)}"


def _size(row: Mapping[str, Any]) -> tuple[float, float] | None:
    height, width = row.get("height"), row.get("width")
    known = all(isinstance(n, int | float) and not isinstance(n, bool) and 0 < n < _MOST for n in (height, width))
    return (float(height), float(width)) if known and height is not None and width is not None else None
