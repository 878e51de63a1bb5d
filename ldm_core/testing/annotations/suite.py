"""The conformance suite of readers of annotations."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ldm_core.contracts import Annotated, AnnotationFiles, AnnotationFormat
from ldm_core.errors import DataError
from ldm_core.testing.base import Suite
from ldm_core.testing.rules import Rule

OTHERS: Mapping[str, bytes] = {
    "notes.txt": b"no boxes here\n",
    "list.json": b'{"pictures": []}',
    "table.csv": b"a,b\n1,2\n",
    "feed.xml": b"<feed/>",
    "noise.bin": bytes(range(256)),
    "empty": b"",
}
"""Files of no format of annotations."""
_BROKEN = 24  # broken copies of each file


class HeldFiles(AnnotationFiles):
    """Files in memory: `named` ones, and others `beside` them."""

    def __init__(
        self, named: Mapping[str, bytes], pictures: Sequence[str], beside: Mapping[str, bytes] | None = None
    ) -> None:
        self._data = {**named, **(beside or {})}
        self.names, self.beside, self.pictures = tuple(named), tuple(beside or ()), tuple(pictures)
        self.asked: list[str] = []

    def read(self, name: str, most: int | None = None) -> bytes:
        """See the contract; a name of no file is noted, and answered with a DataError."""
        self.asked.append(name)
        if name not in self._data:
            raise DataError(f"{name}: is none of the annotation files")
        return self._data[name][:most]

    def lines(self, name: str) -> Iterator[str]:
        """See the contract."""
        try:
            yield from self.read(name).decode().splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{name}: is not UTF-8 text") from None


class AnnotationSuite(Suite):
    """Subclass it, set `component`, and give small right files: `files` by name, `beside` (lists of classes) and the
    `pictures` that they are of; `objects`, the number of boxes of each of those."""

    kind = "annotation"
    protocol: ClassVar[type] = AnnotationFormat
    files: ClassVar[Mapping[str, bytes]]
    beside: ClassVar[Mapping[str, bytes]] = {}
    pictures: ClassVar[Sequence[str]]
    objects: ClassVar[Mapping[str, int]]

    def _held(self, files: Mapping[str, bytes] | None = None) -> HeldFiles:
        return HeldFiles(self.files if files is None else files, self.pictures, self.beside)

    def _rows(self, held: HeldFiles, names: Sequence[str] | None = None) -> tuple[list[Annotated], Any]:
        built = self.build()
        found = built.read(held, built.recognise(held) if names is None else names)
        return list(found.rows), found

    @Rule(
        AnnotationFormat.recognise,
        "() for files of another format",
        "look at the names and the beginnings of the files that are named, and return those that are of the format",
    )
    def test_recognises_its_own_files_alone(self) -> None:
        """Its own files are found among others, and others alone are not."""
        built = self.build()
        own = list(built.recognise(self._held({**OTHERS, **self.files})))
        assert own and set(own) <= set(self.files), f"of {sorted(self.files)} among others it recognises {own}"
        others = list(built.recognise(HeldFiles(OTHERS, self.pictures)))
        assert not others, f"it recognises {others}, which are of no format"

    @Rule(Annotated, "`boxes` (N, 4) numbers", "give each picture as many classes as boxes of four finite numbers")
    def test_rows_are_boxes_with_classes(self) -> None:
        """Boxes are finite and upright, classes are names or numbers below the list's length, one a box."""
        rows, found = self._rows(self._held())
        assert rows, "it reads no picture"
        counts: dict[str, int] = {}
        for row in rows:
            boxes = np.asarray(row.boxes, dtype=np.float64).reshape(-1, 4)
            assert np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all(), f"boxes of {row.picture}: {boxes}"
            assert len(row.labels) == len(boxes), f"{row.picture}: {len(row.labels)} classes, {len(boxes)} boxes"
            for label in row.labels:
                named = label in found.class_names if isinstance(label, str) else 0 <= label < len(found.class_names)
                assert not found.class_names or named, f"{row.picture}: class {label!r} is none of {found.class_names}"
            counts[row.picture] = counts.get(row.picture, 0) + len(boxes)
        read = {_stem(name): count for name, count in counts.items()}
        for picture, count in self.objects.items():
            assert read.get(_stem(picture)) == count, f"{picture} has {count} objects, read were {counts}"

    @Rule(AnnotationFormat, "follows no name in one", "read through `files` alone, and only names that it lists")
    def test_reads_the_listed_files_alone(self) -> None:
        """No other name than the listed ones is asked for, and a second reading gives the same."""
        held = self._held()
        first, _ = self._rows(held)
        again, _ = self._rows(held)
        unlisted = sorted(set(held.asked) - {*held.names, *held.beside})
        assert not unlisted, f"it asks for {unlisted}, which are not listed"
        assert [(r.picture, list(r.labels)) for r in first] == [(r.picture, list(r.labels)) for r in again], (
            "a second reading differs"
        )

    @Rule(AnnotationFormat, "never another exception", "check what is read, and raise DataError with the file's name")
    def test_broken_files_are_data_errors(self) -> None:
        """Files that are cut short or changed are read, or are a DataError of one line."""
        draw = random.Random(0)
        for name, data in self.files.items():
            for number in range(_BROKEN):
                broken = bytearray(data[: draw.randrange(len(data) + 1)] if number % 2 else data)
                for _ in range(0 if number % 2 or not broken else 4):
                    broken[draw.randrange(len(broken))] = draw.randrange(256)
                try:
                    self._rows(self._held({**self.files, name: bytes(broken)}), [*self.files])
                except DataError as error:
                    assert "\n" not in str(error), f"the error of a broken {name} has several lines: {error}"


def _stem(name: str) -> str:
    """A picture's name without folders and extension."""
    base = name.replace("\\", "/").rpartition("/")[2]
    return base.rpartition(".")[0] or base
