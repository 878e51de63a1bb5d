"""A format of a third party: one list of all boxes, with the classes' names in its first line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ldm_contract_plugin.optional.config import CornerListConfig
from ldm_core.contracts import Annotated, AnnotationFiles, AnnotationFormat, Annotations, Site
from ldm_core.errors import DataError

_FIRST = "corners of: "


class CornerList(AnnotationFormat):
    """``corners of: cat, dog``, then ``a.png|cat|1|2|30|40`` a box."""

    def __init__(self, config: CornerListConfig, site: Site) -> None:
        self.config = config

    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        """Files that begin with the words."""
        return [name for name in files.names if files.read(name, len(_FIRST)) == _FIRST.encode()]

    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        """Read one file."""
        first = next(files.lines(names[0]), "").removeprefix(_FIRST)
        return Annotations(rows=self._rows(files, names[0]), class_names=[each.strip() for each in first.split(",")])

    def _rows(self, files: AnnotationFiles, name: str) -> Iterator[Annotated]:
        for number, line in enumerate(files.lines(name), 1):
            if number == 1 or not line.strip():
                continue
            picture, label, *numbers = [*line.split(self.config.sign), ""][:-1] or [""]
            try:
                box = [float(each) for each in numbers]
            except ValueError:
                box = []
            if len(box) != 4:
                raise DataError(f"{name} line {number}: expected a picture, a class and four numbers")
            yield Annotated(picture=picture, boxes=[box], labels=[label], units="pixel", place=f"{name} line {number}")
