"""Places of a sample's values, and the way from text and JSON to captions, classes and boxes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.config.documents import parse_json
from ldm_core.data.arrays import read_npy
from ldm_core.data.records.label_files import are_box_labels
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import DataError, StorageError, quoted

if TYPE_CHECKING:
    from ldm_core.data.records.store import Sample, Store

PICTURES = (
    "jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif", "jpe", "jfif", "mpo",
    "apng", "dib",
)  # fmt: skip
"""Extensions of pictures, in any case; of several of one name, the first here is the example's."""
FIRST_PICTURES = 5
"""Number of them read by 0.1.0; the fingerprints of its data go by it."""
ANNOTATIONS = ("txt", "caption", "cls", "json", "seg.png", "mask.png", "embedding.npy")
"""Extensions of a picture's annotations beside it."""
CAPTION_FIELDS = ("caption", "text", "captions")
"""Fields of JSON or of a metadata row with a caption, or a list of several."""
MOST_TEXT = 16 << 20
"""Bytes of a text, label or JSON file; a larger one is an attack or a mistake."""
MOST_CLASSES = 1 << 20
"""A class of this number or above is a mistake in its example, and says nothing of how many there are."""
MOST_NAME = 200
"""Characters of a class's name; a longer text is a mistake in its example, and no class."""
_MOST_DIGITS = 18  # of a class's number
NO_VALUE: Any = object()


@attrs.frozen
class Source:
    """One place a value may be: a part (`extension`), a `field` of JSON or metadata row, or the folder."""

    extension: str = ""
    field: tuple[str, ...] = ()
    types: tuple[type, ...] = ()
    """Type that the field must have to count; empty = anything but null. A list counts if it holds such, and some."""
    row: bool = False
    """Only the metadata row has the field, not the JSON."""
    annotated: bool = False
    """Annotation files have it; `field` says which part of them."""
    also: tuple[tuple[str, ...], ...] = ()
    """Further fields: the value is the texts of all that a sample has, joined with commas."""

    def has(self, sample: Sample, fields: Mapping[str, Any] | None) -> bool:
        """True if the sample has it; a sample with broken JSON (`fields` None) is assumed to."""
        if self.extension:
            return self.extension in sample.parts
        if self.annotated:
            return sample.boxes is not None
        if self.row:
            return self.look_up(sample.row or {}) is not NO_VALUE
        if self.field:
            return fields is None or self.look_up(fields) is not NO_VALUE
        return bool(sample.folder)

    def possible(self, extensions: Container[str], names: Container[str] | None) -> bool:
        """True if any sample may have it, given all extensions and fields (None: not known)."""
        if self.extension:
            return self.extension in extensions
        return not self.field or names is None or self.annotated or self.field[0] in names

    def annotation(self, sample: Sample) -> Any:
        """The sample's boxes, or the list of their classes."""
        return sample.boxes if sample.boxes is None or self.field == ("boxes",) else list(sample.boxes.labels)

    def text(self) -> str:
        """Name in messages."""
        if self.extension:
            return f".{self.extension}"
        where = "metadata" if self.row else "JSON or metadata"
        names = ", ".join(".".join(field) for field in (self.field, *self.also))
        return f"'{names}' of the {where}" if self.field else "the folders"

    def look_up(self, fields: Mapping[str, Any]) -> Any:
        """The field's value, or NO_VALUE."""
        if self.also:
            each = [attrs.evolve(self, field=field, also=()) for field in (self.field, *self.also)]
            return _joined([found for one in each if (found := one.look_up(fields)) is not NO_VALUE])
        value: Any = fields
        for name in self.field:
            if not isinstance(value, Mapping) or name not in value:
                return NO_VALUE
            value = value[name]
        wrong = bool(self.types) and (not isinstance(value, self.types) or isinstance(value, bool))
        if isinstance(value, list) and str in self.types:  # of texts
            wrong = not value or not all(isinstance(each, str) for each in value)
        return NO_VALUE if value is None or wrong else value


def _joined(values: Sequence[object]) -> object:
    """Texts and lists of texts as one text; a value of another type by itself, which is then no caption."""
    texts: list[str] = []
    for value in values:
        several = value if isinstance(value, list) else [value]
        found = [each for each in several if isinstance(each, str)]
        if len(found) < len(several):
            return value
        texts += found
    return ", ".join(dict.fromkeys(texts)) if texts else NO_VALUE


_FOLDER = Source()


def _defaults() -> dict[str, tuple[Source, ...]]:
    def fields(types: tuple[type, ...], *names: str, row: bool = False) -> tuple[Source, ...]:
        return tuple(Source(field=(name,), types=types, row=row) for name in names)

    texts = (str, list)
    beside = (Source("txt"), Source("caption"))  # which may be labels of boxes, where a row has the caption
    return {
        "image": tuple(Source(extension) for extension in PICTURES),
        "caption": (*fields(texts, *CAPTION_FIELDS, row=True), *beside, *fields(texts, *CAPTION_FIELDS)),
        "class_label": (Source("cls"), *fields((int, str), "class_label", "label"), _FOLDER),
        "boxes": (Source(field=("boxes",), annotated=True), *fields((list,), "boxes")),
        "box_labels": (Source(field=("labels",), annotated=True), *fields((list,), "labels", "box_labels")),
        "segmentation": (Source("seg.png"),),
        "mask": (Source("mask.png"),),
        "embedding": (Source("embedding.npy"),),
    }


class Sources:
    """The source of each key: the defaults, overruled by ``read``."""

    def __init__(self, read: Mapping[str, str], store: Store) -> None:
        self._read = dict(read)
        self._store = store
        self._labels: dict[int, Any] = {}
        self.by_key: dict[str, tuple[Source, ...]] = {}
        self.box_labels = False
        """The ``.txt`` beside the pictures hold labels of boxes and no captions."""

    def fields_of_all(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | None]:
        """JSON fields and metadata row of every sample; None if the JSON is broken."""
        having = [s for s in samples if "json" in s.parts and self._store.size(s, "json") <= MOST_TEXT]
        small = set(map(id, having))
        texts = iter(self._store.fetch_many([(sample, "json") for sample in having]))
        found: list[Mapping[str, Any] | None] = []
        for sample in samples:
            fields: dict[str, Any] | None = dict(sample.row or {})
            if "json" in sample.parts:
                data = next(texts) if id(sample) in small else None
                try:
                    fields = None if data is None else {**dict(sample.row or {}), **_mapping(data)}
                except (ValueError, DataError):
                    fields = None
            found.append(fields)
        return found

    def resolve(self, samples: Sequence[Sample], fields: Sequence[Mapping[str, Any] | None]) -> None:
        """Fill `by_key`; DataError if ``read`` names a key of no sample."""
        extensions = {extension for sample in samples for extension in sample.parts}
        names = {name for known in fields for name in known or ()} or (None if None in fields else ())
        self.by_key = {**_defaults(), **dict.fromkeys(self._read, ())}
        self.box_labels = "txt" in extensions and "caption" not in self._read and are_box_labels(self._store, samples)
        if self.box_labels:
            self.by_key["caption"] = tuple(s for s in self.by_key["caption"] if s.extension != "txt")
        for key, text in self._read.items():
            self.by_key[key] = (self._named(key, text, extensions, fields),)
        used = {
            key: tuple(s for s in sources if s.possible(extensions, names) and any(map(s.has, samples, fields)))
            for key, sources in self.by_key.items()
        }
        self.by_key = {key: sources for key, sources in used.items() if sources}
        if "class_label" not in self.by_key:
            return
        cls = self.by_key["class_label"][0].extension
        having = [s for s in samples if cls and cls in s.parts and self._store.size(s, cls) <= MOST_TEXT]
        for sample, data in zip(having, self._store.fetch_many([(s, cls) for s in having]), strict=True):
            if data is not None:
                self._labels[id(sample)] = label_from(data)

    def _named(self, key: str, text: str, extensions: set[str], fields: Sequence[Mapping[str, Any] | None]) -> Source:
        extension = text.lower().lstrip(".")
        if extension in extensions:
            return Source(extension)
        if (source := _field(text, fields)) is not None:
            return source
        parts = [_field(part.strip(), fields) for part in text.split(",")]
        if len(parts) > 1 and None not in parts:
            first, *more = (part.field for part in parts if part is not None)
            return Source(field=first, also=tuple(more))
        names = sorted({str(name) for known in fields[:100] for name in known or {}})
        raise DataError(
            f"{self._store.title}: read.{key}: no extension or field '{text}'; found extensions "
            f"{', '.join(sorted(extensions)) or 'none'} and fields {', '.join(names[:20]) or 'none'}"
        )

    def peek(self, key: str, sample: Sample, fields: Mapping[str, Any] | None) -> Any:
        """The value if it is at hand without opening the part, else None; NO_VALUE if there is none."""
        for source in self.by_key[key]:
            if source.has(sample, fields):
                if source.row:
                    return source.look_up(sample.row or {})
                if source.annotated:
                    return source.annotation(sample)
                if source.field:
                    return None if fields is None else source.look_up(fields)
                if source.extension:
                    return self._labels.get(id(sample)) if key == "class_label" else None
                return sample.folder
        return NO_VALUE

    def called(self, sample: Sample) -> str:
        """The path of a sample's picture, for messages."""
        extension = next((s.extension for s in self.by_key.get("image", ()) if s.extension in sample.parts), "")
        return self._store.called(sample, extension) if extension else sample.name

    def need_fields(self, keys: Iterable[str]) -> bool:
        """True if any of `keys` may lie in the JSON or the metadata row."""
        return any(source.field and not source.annotated for key in keys for source in self.by_key.get(key, ()))

    def fields(self, sample: Sample) -> Mapping[str, Any]:
        """JSON fields and metadata row of one sample; BadExample if the JSON is broken."""
        fields = dict(sample.row or {})
        if "json" in sample.parts:
            try:
                fields |= _mapping(bounded(self._store, sample, "json", MOST_TEXT))
            except (ValueError, DataError) as error:
                raise BadExample(self.called(sample), str(error)) from error
        return fields

    def read(self, source: Source, sample: Sample, fields: Mapping[str, Any]) -> Any:
        """The value: text of a part (parsed, of a .json or .cls), a field, or the folder's name."""
        if source.annotated:
            return source.annotation(sample)
        if source.field:
            return source.look_up((sample.row or {}) if source.row else fields)
        if not source.extension:
            return sample.folder
        data = bounded(self._store, sample, source.extension, MOST_TEXT)
        if source.extension == "cls":
            return label_from(data)
        if source.extension.split(".")[-1] == "json":
            return parse_json(data, f".{source.extension}", DataError)
        if source.extension.split(".")[-1] == "npy":
            return read_npy(data, sample.name)
        try:
            return data.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f".{source.extension} is not UTF-8 text") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_labels": {}}  # read once while indexing; ids mean nothing elsewhere


def _field(text: str, fields: Sequence[Mapping[str, object] | None]) -> Source | None:
    """The source of a field of this name, if a sample has it."""
    source = Source(field=tuple(text.removeprefix("json.").split(".")))
    there = any(known is not None and source.look_up(known) is not NO_VALUE for known in fields)
    return source if there else None


def bounded(store: Store, sample: Sample, extension: str, most: int) -> bytes:
    """The bytes of a part; ValueError for more than `most`, before they are read if its size says so."""
    size = store.size(sample, extension)
    data = store.fetch(sample, extension, most + 1) if size <= most else b""
    if max(size, len(data)) > most:
        raise ValueError(f".{extension} has {max(size, len(data)):,} bytes, at most {most:,} are read; make it smaller")
    return data


def _mapping(data: bytes) -> dict[str, Any]:
    value = parse_json(data, ".json", DataError)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object of fields, got {type(value).__name__}")
    return value


def label_from(data: bytes) -> int | str:
    """The text of a ``.cls``: a class index, or a class name."""
    text = data.decode("utf-8-sig", errors="replace").strip()
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else text


class Captions(str):
    """The first of several captions of one picture; `texts` are all of them."""

    texts: tuple[str, ...]

    def __new__(cls, texts: Sequence[str]) -> Captions:
        """`texts`: one or more."""
        made = super().__new__(cls, texts[0])
        made.texts = tuple(texts)
        return made

    def __reduce__(self) -> Any:
        return Captions, (self.texts,)


def text_of(value: Any, source: Source = _FOLDER) -> str:
    """A caption: text, or of a list its texts as :class:`Captions`. A list that ``read`` names is one of words, joined
    with commas, unless it is called as captions are."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        several = bool(value) and source.field[-1:] and source.field[-1] in CAPTION_FIELDS
        value = Captions(value) if several else ", ".join(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {quoted(value, 60)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a character (a lone surrogate); write it as UTF-8") from error
    return value


def class_of(value: Any, names: Sequence[str], count: int) -> int:
    """A class index, from an index or a name."""
    if isinstance(value, str) and value in names:
        return list(names).index(value)
    if isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{quoted(value, 60)} is no class; known: {', '.join(names[:10]) or f'0 to {count - 1}'}")
    if not 0 <= value < count:
        raise ValueError(f"class {quoted(value, 60)} is out of range, there are {count} (0 to {count - 1})")
    return value


def box_labels_of(value: Any, names: Sequence[str], count: int, boxes: Any) -> NDArray[np.int64]:
    """Classes of boxes -> int64 (N,), one a box."""
    labels = np.array([class_of(label, names, count) for label in value], dtype=np.int64)
    if isinstance(boxes, list) and len(boxes) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(boxes)} boxes")
    return labels


def vectors_of(value: Any) -> NDArray[np.float32]:
    """An embedding -> float32 (D,), or (L, D) for several vectors; all finite."""
    array = np.asarray(value)
    if array.dtype.kind not in "f" + "iu" * isinstance(value, list) or array.ndim not in (1, 2) or not array.size:
        what = f"an array of {array.dtype} and shape {array.shape}"
        raise ValueError(f"expected a vector, or rows of equal length, of floats, got {what}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("holds numbers that are not finite in float32")
    return array


def read_names(store: Store, key: str, asked: str | None, main: bool) -> tuple[tuple[str, ...], int]:
    """(class names, number of classes) of `key`: as `asked`, or for the main key from ``classes.json``."""
    if asked is None:
        data = store.beside("classes.json") if main else None
        return (() if data is None else names_of(data, f"{store.title}: classes.json")), 0
    if asked.isdecimal() and len(asked) <= _MOST_DIGITS and int(asked) > 0:
        return (), int(asked)
    try:
        data = store.beside(asked)
    except StorageError as error:
        raise DataError(f"{store.title}: classes.{key}: {error}; give a file beside the data or a number") from None
    if data is None:
        raise DataError(
            f"{store.title}: classes.{key}: no file {quoted(asked)} beside the data; give a file there or a number"
        )
    return names_of(data, f"{store.title}: {asked}"), 0


def names_of(data: bytes, where: str) -> tuple[str, ...]:
    """``["cat", ...]``, ``[{"id": 0, "name": "cat"}, ...]`` or ``{"cat": 0, ...}`` -> names by index."""
    try:
        value = parse_json(data, where, DataError)
        if isinstance(value, dict):
            value = [{"id": number, "name": name} for name, number in value.items()]
        if value and all(isinstance(entry, str) for entry in value):
            return tuple(value)
        by_id = {int(entry["id"]): str(entry["name"]) for entry in value}
        return tuple(by_id[number] for number in range(len(by_id)))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(
            f"{where}: expected a list of class names, of {{id, name}} from 0 on, or {{name: id}}"
        ) from error
