"""OpenImages' CSV of boxes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence

from ldm_core.contracts import Annotated, AnnotationFiles, AnnotationFormat, Annotations, Site
from ldm_core.errors import DataError, quoted
from ldm_plugin_annotations.config import OpenImagesConfig

_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_HEAD = 1 << 12
_MOST_CLASSES = 100_000


class OpenImages(AnnotationFormat):
    """One row a box, in shares of the picture; the columns in any order, further ones are not read.

    Classes are called as ``class-descriptions*.csv`` (LabelName, DisplayName) says, in its order, if there is one in
    the boxes' folder, above it or among the files named; else by their LabelName in alphabetical order. Two classes of
    one display name are told apart by their LabelName.
    """

    def __init__(self, config: OpenImagesConfig, site: Site) -> None:
        self.config = config

    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        """The CSV files with the columns in their header."""
        found = []
        for name in files.names:
            if name.lower().endswith(".csv"):
                first = files.read(name, _HEAD).decode("utf-8-sig", "replace").split("\n")[0].strip()
                if set(_COLUMNS) <= {cell.strip() for cell in first.split(",")}:
                    found.append(name)
        return found

    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        """Read the files line by line, whatever their size."""
        classes = self._described(files)
        left_out = Counter[str]()
        rows = (row for name in names for row in self._rows(files, name, classes, left_out))
        return Annotations(rows=rows, class_names=tuple(classes.values()), left_out=left_out)

    def _described(self, files: AnnotationFiles) -> dict[str, str]:
        """LabelName -> name."""
        listed = [n for n in (*files.names, *files.beside) if "class-descriptions" in n.rpartition("/")[2].lower()]
        listed = [name for name in listed if name.lower().endswith(".csv")]
        found: dict[str, str] = {}
        for number, cells in enumerate(_cells(files, listed[0]) if listed else (), 1):
            if number > _MOST_CLASSES or len(cells) != 2:
                raise DataError(f"{listed[0]} line {number}: expected a LabelName and a name, got {quoted(cells, 60)}")
            if (number, cells[0]) != (1, "LabelName"):
                found[cells[0]] = cells[1]
        twice = {name for name, count in Counter(found.values()).items() if count > 1}
        return {label: f"{name} ({label})" if name in twice else name for label, name in found.items()}

    def _rows(
        self, files: AnnotationFiles, name: str, classes: dict[str, str], left_out: Counter[str]
    ) -> Iterator[Annotated]:
        """One row for consecutive boxes of one picture."""
        lines = enumerate(_cells(files, name), 1)
        header = [cell.strip() for cell in next(lines)[1]]
        columns = {column: header.index(column) for column in header}
        picture, boxes, labels, begun = "", list[list[float]](), list[str](), 2
        for number, cells in lines:
            if not cells:
                continue
            place = f"{name} line {number}"
            if len(cells) != len(header):
                raise DataError(f"{place}: {len(cells)} cells where the header has {len(header)}")
            if not cells[columns["ImageID"]]:
                raise DataError(f"{place}: has no ImageID; correct or remove the row")
            if cells[columns["ImageID"]] != picture:
                if picture:
                    yield Annotated(picture=picture, boxes=boxes, labels=labels, place=f"{name} line {begun}")
                picture, boxes, labels, begun = cells[columns["ImageID"]], [], [], number
            if kind := self._no_object(cells, columns):
                left_out[kind] += 1
                continue
            label = cells[columns["LabelName"]]
            if classes and label not in classes:
                raise DataError(f"{place}: the LabelName {quoted(label, 40)} is not in the class descriptions")
            boxes.append(_corners(cells, columns, place))
            labels.append(classes.get(label, label))
        if picture:
            yield Annotated(picture=picture, boxes=boxes, labels=labels, place=f"{name} line {begun}")

    def _no_object(self, cells: Sequence[str], columns: dict[str, int]) -> str:
        """Why a box is left out; "" if it is not."""
        for flag, taken, kind in (
            ("IsGroupOf", self.config.groups, "group of objects"),
            ("IsDepiction", self.config.depictions, "depiction"),
        ):
            if not taken and flag in columns and cells[columns[flag]].strip() == "1":
                return kind
        return ""


def _cells(files: AnnotationFiles, name: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(files.lines(name), strict=True)
    except csv.Error as error:
        raise DataError(f"{name}: not readable as CSV ({error})") from error


def _corners(cells: Sequence[str], columns: dict[str, int], place: str) -> list[float]:
    try:
        return [float(cells[columns[column]]) for column in ("XMin", "YMin", "XMax", "YMax")]
    except ValueError:
        said = [cells[columns[column]] for column in _COLUMNS[2:]]
        raise DataError(f"{place}: XMin, XMax, YMin, YMax are {quoted(said, 60)}, expected numbers") from None
