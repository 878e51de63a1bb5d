"""YOLO's text files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ldm_core.config.documents import parse_yaml
from ldm_core.contracts import Annotated, AnnotationFiles, AnnotationFormat, Annotations, Site
from ldm_core.data.annotations.pictures import stems
from ldm_core.errors import DataError, quoted
from ldm_plugin_annotations.config import YoloConfig

MOST_BYTES = 16 << 20
"""Bytes of a file; one is of one picture."""
_HEAD = 1 << 12
_LOOKED_AT = 64
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LINE = re.compile(rf"\s*\d+(?:\s+{_NUMBER}){{4,}}\s*")
_LISTS = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "names.txt", "_darknet.labels")
_MOST_CLASSES = 100_000


class Yolo(AnnotationFormat):
    """One file a picture, of the picture's name: lines of a class number and x, y of the centre, width and height in
    shares of the picture. A fifth number (a score) or an outline of more points is an error.

    Labels in ``.../labels/...`` are of pictures in ``.../images/...``; other labels are of the picture in their own
    folder, or of the one picture of their name. An empty file is of a picture without objects.
    """

    def __init__(self, config: YoloConfig, site: Site) -> None:
        self.config = config

    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        """The text files called as pictures are, if all lines looked at are boxes."""
        known = stems(files.pictures)
        lists = {self.config.names.rpartition("/")[2], *_LISTS}
        named = [n for n in files.names if n.lower().endswith(".txt") and n.rpartition("/")[2] not in lists]
        of_pictures = [name for name in named if name.rpartition("/")[2].rpartition(".")[0] in known]
        some = False
        for name in of_pictures[:: max(1, len(of_pictures) // _LOOKED_AT)][:_LOOKED_AT]:
            text = files.read(name, _HEAD).decode("utf-8-sig", "replace")
            lines = [line for line in text.split("\n")[: -1 if len(text) >= _HEAD else None] if line.strip()]
            if not all(_LINE.fullmatch(line) for line in lines):
                return []
            some |= bool(lines)
        return of_pictures if some else []

    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        """Read the list of classes, then file by file."""
        classes = self._classes(files, names)
        return Annotations(rows=self._rows(files, names, classes), class_names=classes)

    def _rows(self, files: AnnotationFiles, names: Sequence[str], classes: Sequence[str]) -> Iterator[Annotated]:
        pictures = {path.rpartition(".")[0] for path in files.pictures}
        for name in names:
            data = files.read(name, MOST_BYTES + 1)
            if len(data) > MOST_BYTES:
                raise DataError(f"{name}: has more than {MOST_BYTES:,} bytes; one file is of one picture")
            boxes, labels = [], []
            for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
                if line.strip():
                    label, corners = _box(line, f"{name} line {number}", classes)
                    boxes.append(corners)
                    labels.append(label)
            yield Annotated(picture=_picture(name, pictures), boxes=boxes, labels=labels, place=name)

    def _classes(self, files: AnnotationFiles, names: Sequence[str]) -> tuple[str, ...]:
        """The names of the classes, () without a list beside the labels or above."""
        others = [name for name in (*files.names, *files.beside) if name not in set(names)]
        wanted = (self.config.names,) if self.config.names else _LISTS
        for want in wanted:
            found = [name for name in others if name == want or name.rpartition("/")[2] == want.rpartition("/")[2]]
            for name in sorted(found, key=lambda each: -each.count("/")):  # the nearest one
                if listed := _listed(files, name):
                    return listed
        if self.config.names:
            raise DataError(f"{names[0]}: no list of classes {quoted(self.config.names, 80)} beside it or above")
        return ()


def _listed(files: AnnotationFiles, name: str) -> tuple[str, ...]:
    """The names in a list, () in a YAML file without any."""
    data = files.read(name, MOST_BYTES)
    if not name.lower().endswith((".yaml", ".yml")):
        lines = data.decode("utf-8-sig", "replace").splitlines()
        return _checked([line.strip() for line in lines if line.strip()], name)
    value = parse_yaml(data, name, DataError, aliases=False)
    names: Any = value.get("names") if isinstance(value, Mapping) else None
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise DataError(f"{name}: 'names' numbers classes {quoted(list(names), 60)}, expected 0, 1, 2, ...")
        names = [names[number] for number in range(len(names))]
    if names is None:
        return ()
    if not isinstance(names, list):
        raise DataError(f"{name}: 'names' is {quoted(names, 60)}, expected a list of classes")
    return _checked([str(each) if isinstance(each, int | float) else each for each in names], name)


def _checked(names: Sequence[Any], where: str) -> tuple[str, ...]:
    if len(names) > _MOST_CLASSES:
        raise DataError(
            f"{where}: lists {len(names):,} classes, and {_MOST_CLASSES:,} are read; give a list of classes"
        )
    seen = set[str]()
    for each in names:
        if not isinstance(each, str) or each in seen:
            raise DataError(f"{where}: the class {quoted(each, 60)} is no text, or is there twice; correct the list")
        seen.add(each)
    return tuple(names)


def _picture(name: str, pictures: set[str]) -> str:
    """The picture of a file of labels, without its extension."""
    folder, _, base = name.rpartition("/")
    stem = base.rpartition(".")[0]
    parts = folder.split("/")
    for place in range(len(parts) - 1, -1, -1):
        if parts[place].lower() == "labels":
            return "/".join([*parts[:place], "images", *parts[place + 1 :], stem])
    beside = f"{folder}/{stem}" if folder else stem
    return beside if beside in pictures else stem


def _box(line: str, where: str, classes: Sequence[str]) -> tuple[int, list[float]]:
    words = line.split()
    if len(words) != 5 or not _LINE.fullmatch(line):
        what = "an outline or a score" if len(words) > 5 and _LINE.fullmatch(line) else quoted(line.strip(), 80)
        raise DataError(f"{where}: holds {what}, expected a class and x, y, width, height")
    label = int(words[0]) if len(words[0]) < 10 else -1
    if label < 0 or (classes and label >= len(classes)):
        raise DataError(f"{where}: class {quoted(words[0], 30)}, there are {len(classes)} (0 to {len(classes) - 1})")
    x, y, width, height = map(float, words[1:])
    return label, [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
