"""Label maps in colour: the list of the classes' colours, and classes for pixels. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.config.documents import parse_json
from ldm_core.errors import DataError, clean, quoted

UNLABELED = 255
"""Label of no class in a label map; it fills the padding."""
Rows: TypeAlias = Sequence[tuple[int, int, int, int]]
"""Red, green, blue and class of each colour."""
MOST_BYTES = 4 << 20
_MOST = 1 << 16  # colours
_FORMS = (
    "[[r, g, b], ...] in the order of the classes, {name: [r, g, b]}, [{id, name, color}], or lines of `r g b name` or "
    f"`id r g b name`; the id {UNLABELED} is of pixels without a class"
)
_HEX = re.compile(r"#([0-9a-fA-F]{6})")


@attrs.frozen
class Palette:
    """The colours of a label map: `rows`, each with its class, and the classes' names, () where they have none.

    Several colours may be of one class. Classes go from 0 to the highest without a gap; :data:`UNLABELED` is of none.
    """

    rows: tuple[tuple[int, int, int, int], ...]
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of classes."""
        return 1 + max((row[3] for row in self.rows if row[3] != UNLABELED), default=-1)

    def of_indexed(self, indices: NDArray[Any], own: NDArray[Any], name: str) -> NDArray[Any]:
        """Classes of an indexed picture: by its `own` colours (N, 3) if all used ones are in the palette, else the
        indices."""
        used = np.unique(indices)
        if used.max() < len(own) and np.isin(_code(own[used]), _code(np.array(self.rows)[:, :3])).all():
            return self.classes(own[indices], name)
        return indices

    def classes(self, colours: NDArray[Any], name: str) -> NDArray[np.int64]:
        """Colours (..., 3) -> classes (...). DataError naming the first colour that is not in it, and its place."""
        rows = np.array(sorted((_code(np.array(row[:3])), row[3]) for row in self.rows), dtype=np.int64)
        codes = _code(colours)
        place = np.minimum(np.searchsorted(rows[:, 0], codes), len(rows) - 1)
        if (unknown := rows[place, 0] != codes).any():
            raise DataError(f"{name}: {self._unknown(colours, unknown)}")
        found: NDArray[np.int64] = rows[place, 1]
        return found

    def _unknown(self, colours: NDArray[Any], unknown: NDArray[np.bool_]) -> str:
        first = np.argwhere(unknown)[0]
        colour = tuple(int(n) for n in colours[tuple(first)])
        near = min(self.rows, key=lambda row: sum((a - b) ** 2 for a, b in zip(row, colour, strict=False)))
        called = self.names[near[3]] if near[3] < len(self.names) else "none" if near[3] == UNLABELED else near[3]
        where = f" at x={first[-1]}, y={first[-2]}" if len(first) > 1 else ""
        return (
            f"{int(unknown.sum()):,} pixels of colours that the palette does not have, such as {colour}{where} "
            f"(nearest: {near[:3]}, class {clean(called, 40)}); add them to it, and save maps as PNG: JPEG and smooth "
            "resizing make new colours"
        )


def _code(colours: NDArray[Any]) -> Any:
    red, green, blue = np.moveaxis(np.asarray(colours, dtype=np.int64), -1, 0)
    return (red << 16) | (green << 8) | blue


def palette_of(rows: Iterable[Sequence[Any]], names: Sequence[str] = (), where: str = "palette") -> Palette:
    """A palette from red, green, blue and class of each colour. DataError naming the first that is none."""
    found: dict[tuple[int, ...], int] = {}
    for row in rows:
        numbers = tuple(row)
        whole = len(numbers) == 4 and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        if not whole or not all(0 <= n <= 255 for n in numbers[:3]) or not 0 <= numbers[3] < _MOST:
            raise DataError(
                f"{where}: {quoted(row, 60)} is no colour of a class: three numbers from 0 to 255, and its id"
            )
        if found.get(numbers[:3], numbers[3]) != numbers[3]:
            raise DataError(
                f"{where}: the colour {numbers[:3]} is of two classes, {found[numbers[:3]]} and {numbers[3]}"
            )
        found[numbers[:3]] = numbers[3]
    classes = {n for n in found.values() if n != UNLABELED}
    if not classes or len(found) > _MOST:
        raise DataError(f"{where}: holds {len(classes)} classes; expected {_FORMS}")
    if classes != set(range(len(classes))):
        gap = next(n for n in range(len(classes)) if n not in classes)
        raise DataError(f"{where}: has no colour of class {gap}, and one of {max(classes)}; number classes from 0 on")
    made = tuple((r, g, b, number) for (r, g, b), number in found.items())
    return Palette(made, tuple(names) if len(names) == len(classes) else ())


def read_palette(data: bytes, where: str) -> Palette:
    """A palette from a JSON or text file in one of its forms; DataError naming `where`, and the form."""
    if len(data) > MOST_BYTES:
        raise DataError(f"{where}: has {len(data):,} bytes, at most {MOST_BYTES:,} are read")
    if data.lstrip()[:1] in (b"[", b"{"):
        entries = list(_of_json(parse_json(data, where, DataError), where))
    else:
        entries = list(_of_text(data, where))
    rows, names, number = [], dict[int, str](), 0
    for colour, identity, name in entries:
        taken = number if identity is None else identity
        number += identity is None
        rows.append((*colour, taken))
        if name and taken != UNLABELED and names.setdefault(taken, name) != name:
            raise DataError(f"{where}: class {taken} is called {quoted(names[taken], 40)} and {quoted(name, 40)}")
    if len({identity is None for _, identity, _ in entries}) > 1:
        raise DataError(f"{where}: some colours have an id and others none; give all of them one")
    listed = [names[n] for n in sorted(names)]
    if len(set(listed)) < len(listed):
        raise DataError(f"{where}: a name is of two classes; name each by itself")
    return palette_of(rows, listed, where)


_Entry: TypeAlias = "tuple[tuple[Any, ...], int | None, str]"


def _of_json(value: Any, where: str) -> Iterable[_Entry]:
    if isinstance(value, dict):
        for name, colour in value.items():
            yield _colour(colour, where), None, name
        return
    for entry in value if isinstance(value, list) else ():
        if not isinstance(entry, Mapping):
            yield _colour(entry, where), None, ""
            continue
        identity, name = entry.get("id"), entry.get("name", "")
        if not isinstance(identity, int | None) or isinstance(identity, bool) or not isinstance(name, str):
            raise DataError(f"{where}: {quoted(dict(entry), 80)}: expected {_FORMS}")
        yield _colour(entry.get("color", entry.get("colour")), where), identity, name


def _of_text(data: bytes, where: str) -> Iterable[_Entry]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{where}: is no text; expected {_FORMS}") from None
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or (words[0].startswith("#") and not _HEX.fullmatch(words[0])):
            continue
        if _HEX.fullmatch(words[0]):
            yield _colour(words[0], where), None, " ".join(words[1:])
            continue
        count = next((i for i, word in enumerate(words) if not (word.isascii() and word.isdecimal())), len(words))
        count = min(count, 4)
        numbers = [int(word) if len(word) < 10 else -1 for word in words[:count]]
        if count < 3:
            raise DataError(f"{where} line {number}: {quoted(line.strip(), 60)} is no colour; expected {_FORMS}")
        yield tuple(numbers[-3:]), numbers[0] if count == 4 else None, " ".join(words[count:])


def _colour(value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) and (match := _HEX.fullmatch(value)):
        return tuple(bytes.fromhex(match[1]))
    if not isinstance(value, list) or len(value) != 3:
        raise DataError(f"{where}: {quoted(value, 60)} is no colour; expected {_FORMS}")
    return tuple(value)


def input_classes(value: Any, palette: Palette | None, name: str) -> Any:
    """A label map as a user gives it, as classes (H, W): one in colour, (3, H, W) or (H, W, 3), by the palette of the
    model. DataError where it has none; other values are handed through."""
    shape = np.shape(value)
    if len(shape) != 3 or 3 not in (shape[0], shape[-1]):
        return value
    colours = np.asarray(value) if shape[-1] == 3 else np.moveaxis(np.asarray(value), 0, -1)
    if (colours == colours[..., :1]).all() and palette is None:
        return colours[..., 0].astype(np.int64)
    if palette is None:
        coloured = colours[(colours != colours[..., :1]).any(-1)][0]
        raise DataError(
            f"{name}: a label map in colour, such as {tuple(coloured.tolist())}, and this model has no palette (it was "
            "trained on class numbers); give the number of each pixel's class, as its grey level or palette index"
        )
    return palette.classes(colours, name)


def with_classes(row: Mapping[str, Any], palettes: Mapping[str, Palette]) -> dict[str, Any]:
    """Inputs of an image with a label map in colour as classes; see :func:`input_classes`."""
    key = "segmentation"
    return {**row, key: input_classes(row[key], palettes.get(key), key)} if key in row else dict(row)
