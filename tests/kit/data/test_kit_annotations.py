"""The suite of annotations: a right reader passes, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from planted import Empty, Mistake, assert_found, faults_of, mistakes

from ldm_core.contracts import Annotated, AnnotationFiles, AnnotationFormat, Annotations, Site
from ldm_core.errors import DataError
from ldm_core.testing import AnnotationSuite


class Right(AnnotationFormat):
    """Lines of a picture and four numbers."""

    def __init__(self, config: Empty, site: Site) -> None:
        self.config = config

    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        return [name for name in files.names if files.read(name, 4) == b"four"]

    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        return Annotations(rows=self.rows(files, names[0]), class_names=("cat",))

    def rows(self, files: AnnotationFiles, name: str) -> Iterator[Annotated]:
        for line in list(files.lines(name))[1:]:
            picture, *numbers = line.split() or [""]
            yield Annotated(picture=picture, boxes=[self.box(numbers, name)], labels=self.labels())

    def box(self, numbers: Sequence[str], name: str) -> list[float]:
        try:
            left, top, right, bottom = map(float, numbers)
        except ValueError:
            raise DataError(f"{name}: expected four numbers") from None
        return [left, top, right, bottom]

    def labels(self) -> list[Any]:
        return [0]


class TakesAll(Right):
    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        return files.names


class LosesALabel(Right):
    def labels(self) -> list[Any]:
        return []


class CountsFromOne(Right):
    def labels(self) -> list[Any]:
        return [1]


class LooksAround(Right):
    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        with suppress(DataError):
            files.read("../secret.txt")
        return super().read(files, names)


class Trusts(Right):
    def box(self, numbers: Sequence[str], name: str) -> list[float]:
        return [float(numbers[i]) for i in range(4)]


class LosesARow(Right):
    def rows(self, files: AnnotationFiles, name: str) -> Iterator[Annotated]:
        yield from list(super().rows(files, name))[:1]


GIVEN: dict[str, Any] = {
    "files": MappingProxyType({"boxes.txt": b"four\na.png 0 0 1 1\nb.png 0.1 0.2 0.3 0.4\n"}),
    "pictures": ("a.png", "b.png"),
    "objects": MappingProxyType({"a.png": 1, "b.png": 1}),
}


def test_a_right_reader_passes() -> None:
    assert faults_of(AnnotationSuite, Right, Empty, **GIVEN) == {}


@mistakes(
    Mistake(TakesAll, "test_recognises_its_own_files_alone", "() for files of another format"),
    Mistake(LosesALabel, "test_rows_are_boxes_with_classes", "0 classes, 1 boxes"),
    Mistake(CountsFromOne, "test_rows_are_boxes_with_classes", "class 1 is none of"),
    Mistake(LosesARow, "test_rows_are_boxes_with_classes", "b.png has 1 objects"),
    Mistake(LooksAround, "test_reads_the_listed_files_alone", "../secret.txt"),
    Mistake(Trusts, "test_broken_files_are_data_errors", "never another exception"),
)
def test_planted_mistakes_are_found(mistake: Mistake) -> None:
    assert_found(AnnotationSuite, mistake, **GIVEN)
