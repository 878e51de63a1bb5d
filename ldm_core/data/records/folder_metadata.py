"""Metadata files of a folder of pictures: their rows, and the pictures named in them, however they spell it."""

from __future__ import annotations

import csv
import difflib
import io
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import attrs

from ldm_core.config.documents import parse_json
from ldm_core.data.records.sources import CAPTION_FIELDS, MOST_TEXT
from ldm_core.errors import DataError, quoted

METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of the files with a row a picture."""
_DELIMITERS = (",", ";", "\t", "|")
_SUGGESTED_AMONG = 5000  # names that a misspelt one is compared with


@attrs.frozen
class Row:
    """One row: its line in the file `where`, and its fields without ``file_name``'s meaning being looked at."""

    where: str
    line: int
    fields: Mapping[str, Any]

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.where} line {self.line}"


def read_metadata(text: str, name: str, where: str) -> list[dict[str, Any]]:
    """Rows of a metadata.jsonl or metadata.csv; each has ``file_name``. Empty CSV cells are left out.

    DataError naming the line of a broken row, or of one with more or fewer cells than the header.
    """
    return [dict(row.fields) for row in read_rows(text, name, where)]


def read_rows(text: str, name: str, where: str) -> list[Row]:
    """As :func:`read_metadata`, with the line of each row."""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{where} line {line}: holds a NUL character; save the file as UTF-8 text")
    rows = list(_csv_rows(text, where) if name.endswith(".csv") else _json_rows(text, where))
    for row in rows:
        if not isinstance(row.fields.get("file_name"), str):
            has = ", ".join(quoted(key, 40) for key in list(row.fields)[:8]) or "nothing"
            raise DataError(f"{row.place}: has no 'file_name'; each row names its picture there (this one has {has})")
    return rows


def _json_rows(text: str, where: str) -> Iterator[Row]:
    """One object a line. JSON allows raw line-like characters in texts, so only newlines end a line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip(" \t\r"):
            continue
        place = f"{where} line {number}"
        if len(line) > MOST_TEXT:
            raise DataError(f"{place}: has {len(line):,} characters, at most {MOST_TEXT:,} are read")
        row = parse_json(line, place, DataError)
        if not isinstance(row, dict):
            raise DataError(f"{place}: is no JSON object; write one {{...}} a line and picture")
        yield Row(where, number, row)


def _csv_rows(text: str, where: str) -> Iterator[Row]:
    before = csv.field_size_limit(MOST_TEXT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        header: list[str] | None = None
        line = 1
        for cells in reader:
            if header is None and cells:
                header = _header(cells, where, line)
            elif header is not None and cells:
                yield Row(where, line, _fields(header, cells, f"{where} line {line}"))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{where} line {reader.line_num}: not readable as CSV ({error}); put a text that holds commas, quotes or "
            "line breaks in double quotes, and double the quotes in it"
        ) from error
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str) -> str:
    """Separator of the cells: the one that gives the first line a cell ``file_name``; else a comma."""
    first = next((line for line in text[:MOST_TEXT].splitlines() if line.strip()), "")
    named = (sign for sign in _DELIMITERS if "file_name" in [c.strip().strip('"') for c in first.split(sign)])
    return next(named, ",")


def _header(cells: Sequence[str], where: str, line: int) -> list[str]:
    twice = next((name for i, name in enumerate(cells) if name and name in cells[:i]), None)
    if twice is not None:
        raise DataError(f"{where} line {line}: the column {quoted(twice, 40)} is there twice; rename one")
    return list(cells)


def _fields(header: Sequence[str], cells: Sequence[str], place: str) -> dict[str, Any]:
    """The filled cells, by their columns."""
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise DataError(
            f"{place}: {len(cells)} cells where the header has {len(header)} ({', '.join(header)[:80]}); put a text "
            'that holds a comma in double quotes: "a lamp, brass"'
        )
    return {key: value for key, value in zip(header, cells, strict=False) if key and value != ""}


class Names:
    """The paths of a folder, found by their names in metadata.

    `roots`: spellings of the folder in absolute names. `real`: path -> the real place of its bytes, asked for only if
    nothing else finds a name.
    """

    def __init__(self, paths: Iterable[str], roots: Sequence[str] = (), real: Mapping[str, str] | None = None) -> None:
        self._paths = set(paths)
        self._roots = [root.rstrip("/") + "/" for root in roots]
        self._urls = real or {}
        self._loose: dict[str, list[str]] | None = None
        self._real: dict[str, str] | None = None

    def find(self, folder: str, name: str) -> str | None:
        """The path of `name` in a metadata file of `folder`; None for no path, or more than one."""
        if (plain := _joined(folder, name)) in self._paths:
            return plain
        spelt = name.replace("\\", "/").removeprefix("file://")
        if spelt.startswith("/") or "://" in spelt:
            return self._absolute(spelt)
        meant = posixpath.normpath(_joined(folder, spelt))
        if meant in self._paths:
            return meant
        from_top = posixpath.normpath(spelt)
        if folder and from_top.startswith(folder + "/") and from_top in self._paths:
            return from_top
        return self._alone(meant)

    def _absolute(self, name: str) -> str | None:
        for spelt in dict.fromkeys((posixpath.normpath(name) if name.startswith("/") else name, unquote(name))):
            for root in self._roots:
                if spelt.startswith(root):
                    inside = posixpath.normpath(spelt.removeprefix(root))
                    return inside if inside in self._paths else self._alone(inside)
        if not name.startswith("/") or not self._urls:
            return None
        if self._real is None:
            self._real = {os.path.realpath(url): path for path, url in self._urls.items()}
        return self._real.get(os.path.realpath(name))

    def _alone(self, path: str) -> str | None:
        """The only path different in nothing but accents' composition, ``%20`` or the case of the extension."""
        if self._loose is None:
            self._loose = {}
            for each in self._paths:
                self._loose.setdefault(_loosely(each), []).append(each)
        found = self._loose.get(_loosely(path), [])
        return found[0] if len(found) == 1 else None

    def like(self, folder: str, name: str) -> str:
        """``; did you mean 'sub/a.png'?`` for a missing name; empty if nothing is like it."""
        spelt = posixpath.normpath(_joined(folder, name.replace("\\", "/")))
        base = posixpath.basename(spelt)
        key, stem = _loosely(base).casefold(), _loosely(base).rpartition(".")[0].casefold()
        same, near = [], []
        for path in sorted(self._paths):
            loose = _loosely(posixpath.basename(path)).casefold()
            if loose == key:
                same.append(path)
            elif stem and loose.rpartition(".")[0] == stem:
                near.append(path)
        found = same or near
        if not found:
            like = (posixpath.dirname(spelt), _digits(spelt))  # 12.png is no slip for 13.png
            inside = [p for p in sorted(self._paths) if (posixpath.dirname(p), _digits(p)) == like]
            found = difflib.get_close_matches(spelt, inside[:_SUGGESTED_AMONG], 1, 0.7)
        if not found:
            return ""
        shown = posixpath.relpath(found[0], folder) if folder else found[0]
        return f"; did you mean {quoted(shown, 120)}?"


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _digits(path: str) -> str:
    return "".join(c for c in path if c.isdigit())


def _loosely(path: str) -> str:
    text = unicodedata.normalize("NFC", unquote(path))
    stem, dot, extension = text.rpartition(".")
    return stem + dot + extension.lower()


def merged(known: Row, more: Row, caption: str) -> Row:
    """Two rows of one picture as one: different captions become a list. DataError if other fields differ."""
    fields = dict(known.fields)
    for key in {**known.fields, **more.fields}:
        one, other = known.fields.get(key), more.fields.get(key)
        if one == other or key == "file_name":
            continue
        if key not in (*CAPTION_FIELDS, caption) or not isinstance(other, str) or not isinstance(one, str | list):
            raise DataError(
                f"{more.place}: names {quoted(more.fields['file_name'])} again, with another {quoted(key, 40)} than "
                f"{known.place}; give each picture one row (several captions: a list)"
            )
        texts = one if isinstance(one, list) else [one]
        fields[key] = texts if other in texts else [*texts, other]
    return Row(known.where, known.line, fields)
