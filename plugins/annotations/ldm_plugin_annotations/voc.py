"""Pascal VOC's XML files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from xml.parsers import expat

from ldm_core.contracts import Annotated, AnnotationFiles, AnnotationFormat, Annotations, Site
from ldm_core.data.annotations.pictures import stems
from ldm_core.errors import DataError, clean, quoted
from ldm_plugin_annotations.config import VocConfig

MOST_BYTES = 16 << 20
"""Bytes of a file; one is of one picture."""
DEEPEST = 16
"""Levels of elements."""
MOST_ELEMENTS = 500_000
_MOST_TEXT = 1000  # characters of one value
_HEAD = 1 << 10
_LOOKED_AT = 8
_PATHS = {
    "annotation/filename": "filename",
    "annotation/size/width": "width",
    "annotation/size/height": "height",
    **{f"annotation/object/{name}": name for name in ("name", "difficult")},
    **{f"annotation/object/bndbox/{name}": name for name in ("xmin", "ymin", "xmax", "ymax")},
}


class Voc(AnnotationFormat):
    """One file a picture: ``filename``, ``size``, and ``object`` with ``name``, ``difficult`` and ``bndbox``.

    Pixels are numbered from ``first_pixel`` on. From 1 on, corners are of pixels in the box, so (1, 1, 10, 20) is 10
    wide and 20 high at the upper left; from 0 on, they are the edges. A file is of the picture ``filename``, or of
    the picture of its own name if the data has no such one.
    """

    def __init__(self, config: VocConfig, site: Site) -> None:
        self.config = config

    def recognise(self, files: AnnotationFiles) -> Sequence[str]:
        """The XML files with the root element; of many the first few looked at speak for all."""
        named = [name for name in files.names if name.lower().endswith(".xml")]
        few = named[:: max(1, len(named) // _LOOKED_AT)][:_LOOKED_AT]
        if all(b"<annotation" in files.read(name, _HEAD) for name in few):
            return named
        return [name for name in named if b"<annotation" in files.read(name, _HEAD)]

    def read(self, files: AnnotationFiles, names: Sequence[str]) -> Annotations:
        """Read the files one after the other."""
        left_out, known = Counter[str](), stems(files.pictures)
        return Annotations(rows=self._rows(files, names, known, left_out), left_out=left_out)

    def _rows(
        self, files: AnnotationFiles, names: Sequence[str], known: frozenset[str], left_out: Counter[str]
    ) -> Iterator[Annotated]:
        for name in names:
            data = files.read(name, MOST_BYTES + 1)
            if len(data) > MOST_BYTES:
                raise DataError(f"{name}: has more than {MOST_BYTES:,} bytes; one file is of one picture")
            found = _Reader(name).parse(data)
            objects = [each for each in found.objects if self.config.difficult or each.get("difficult", "0") != "1"]
            if more := len(found.objects) - len(objects):
                left_out["difficult object"] += more
            own = name.rpartition("/")[2].rpartition(".")[0]
            said = found.fields.get("filename", "").replace("\\", "/").rpartition("/")[2]
            picture = said if said and (said.rpartition(".")[0] or said) in known else own
            yield Annotated(
                picture=picture,
                boxes=[self._corners(each, name) for each in objects],
                labels=[_name(each, name) for each in objects],
                units="pixel",
                size=_size(found.fields),
                place=name,
            )

    def _corners(self, found: dict[str, str], where: str) -> list[float]:
        try:
            left, top, right, bottom = (float(found[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        except (KeyError, ValueError):
            said = {key: found.get(key) for key in ("xmin", "ymin", "xmax", "ymax")}
            raise DataError(f"{where}: bndbox is {quoted(said, 100)}, expected four numbers") from None
        first = self.config.first_pixel
        return [left - first, top - first, right, bottom] if first else [left, top, right, bottom]


def _name(found: dict[str, str], where: str) -> str:
    if not found.get("name"):
        raise DataError(f"{where}: an object has no 'name'")
    return found["name"]


def _size(fields: dict[str, str]) -> tuple[float, float] | None:
    try:
        height, width = float(fields["height"]), float(fields["width"])
    except (KeyError, ValueError):
        return None
    return (height, width) if 0 < height < 1e9 and 0 < width < 1e9 else None  # some tools write 0


class _Reader:
    """The fields and objects of one file.

    expat alone, without a tree: a document with a DOCTYPE is refused where it begins, so there are no entities of
    its own and nothing to look up; depth, elements and lengths of text are bounded.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._path: list[str] = []
        self._count = 0
        self._text: list[str] = []
        self.fields: dict[str, str] = {}
        self.objects: list[dict[str, str]] = []

    def parse(self, data: bytes) -> _Reader:
        """Read the document."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        refuse: Any = partial(self._refuse, "a DOCTYPE or entities, which annotations have no use for")
        parser.StartDoctypeDeclHandler = refuse
        parser.EntityDeclHandler = refuse
        parser.ExternalEntityRefHandler = refuse
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise DataError(f"{self._name}: not readable as XML ({clean(error, 120)})") from None
        except (LookupError, ValueError) as error:  # an encoding that Python does not know
            raise DataError(f"{self._name}: not readable as XML ({clean(error, 120)}); save it as UTF-8") from None
        return self

    def _refuse(self, what: str, *_: Any) -> None:
        raise DataError(f"{self._name}: holds {what}; refused")

    def _begin(self, tag: str, _: Any) -> None:
        self._count += 1
        self._path.append(tag)
        if self._count == 1 and tag != "annotation":
            raise DataError(f"{self._name}: its root is <{clean(tag, 40)}>, expected <annotation>")
        if len(self._path) > DEEPEST or self._count > MOST_ELEMENTS:
            self._refuse("more elements, or deeper ones, than any annotation")
        if self._path == ["annotation", "object"]:
            self.objects.append({})
        self._text = []

    def _characters(self, text: str) -> None:
        if len(self._text) < _MOST_TEXT:
            self._text.append(text[:_MOST_TEXT])

    def _end(self, tag: str) -> None:
        key = _PATHS.get("/".join(self._path))
        if key is not None:
            place = self.objects[-1] if len(self._path) > 2 and self._path[1] == "object" else self.fields
            place[key] = "".join(self._text).strip()[:_MOST_TEXT]
        self._path.pop()
        self._text = []
