"""Pictures of a run for a page: decoded with care, made small, as data URLs. Imports no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs

from ldm_core.data import images
from ldm_core.errors import LDMError, clean

if TYPE_CHECKING:
    from PIL.Image import Image

_COLUMNS, _CELL, _GAP = 8, 96, 4  # of a sheet of reconstructions, as the core draws it
_QUALITIES = (85, 60)
_SMALLEST = 96
_PACKED = 4  # pixels a byte, at which it is worth trying to do without loss
_LONGEST = 1200  # characters of a prompt

T = TypeVar("T")


@attrs.frozen
class Shown:
    """A picture on the page: its data URL, its size on file, and words from its metadata."""

    src: str
    width: int
    height: int
    words: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Pair:
    """An original and its reconstruction."""

    original: Shown
    made: Shown


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most < 2:
        return list(items[-1:])[:most]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def decoded(data: bytes, name: str) -> Image:
    """A PIL image of mode L or RGB; DataError for anything else, and for one too large."""
    return images.decode_picture(data, 3, name)


def shown(data: bytes, name: str, *, budget: int, side: int) -> Shown:
    """A picture of at most `side` pixels and about `budget` bytes, with the words of its metadata."""
    picture = decoded(data, name)
    try:
        words = images.png_metadata(data) if data.startswith(b"\x89PNG") else {}
    except LDMError:
        words = {}
    kept = {clean(k, 79): clean(v, _LONGEST) for k, v in words.items() if k != "recipe"}
    return encoded(picture, budget=budget, side=side, words=kept)


def encoded(picture: Image, *, budget: int, side: int, words: Mapping[str, str] | None = None) -> Shown:
    """Encode: without loss within the budget, else as WebP of falling quality, then smaller."""
    from PIL import Image as PILImage

    if max(picture.size) > side:
        ratio = side / max(picture.size)
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        picture = picture.resize(size, PILImage.Resampling.LANCZOS)
    data, kind = (_png(picture), "png") if picture.width * picture.height < _PACKED * budget else (b"", "")
    for quality in _QUALITIES:
        if data and len(data) <= budget:
            break
        data, kind = _lossy(picture, quality)
    if len(data) > budget and max(picture.size) > _SMALLEST:
        share = max(0.4, min(0.9, 0.95 * (budget / len(data)) ** 0.5))
        return encoded(picture, budget=budget, side=max(_SMALLEST, int(max(picture.size) * share)), words=words)
    text = base64.b64encode(data).decode("ascii")
    return Shown(f"data:image/{kind};base64,{text}", picture.width, picture.height, dict(words or {}))


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=picture.width * picture.height < 1 << 18)
    return buffer.getvalue()


def _lossy(picture: Image, quality: int) -> tuple[bytes, str]:
    """WebP, or JPEG if this build of Pillow has none."""
    from PIL import features

    kind = "webp" if features.check("webp") else "jpeg"
    buffer = io.BytesIO()
    picture.save(buffer, format=kind.upper(), quality=quality, **({"method": 2} if kind == "webp" else {}))
    return buffer.getvalue(), kind


def pairs(data: bytes, size: tuple[int, int], *, budget: int, side: int) -> list[Pair]:
    """The pairs on a sheet of reconstructions of images of `size` (h, w), each in its own pixels; none if the sheet has
    another layout. `budget`: bytes of all."""
    sheet = decoded(data, "reconstructions.png")
    height, width = size
    factor = max(1, -(-_CELL // width))
    step_x, step_y = width * factor + _GAP, height * factor + _GAP
    rows = (sheet.height - _GAP) // step_y
    if sheet.width != _COLUMNS * step_x + _GAP or sheet.height != rows * step_y + _GAP or rows < 1:
        return []
    found = []
    for row in range(rows):
        for column in range(0, _COLUMNS, 2):
            cells = [_cell(sheet, (row, column + i), (step_x, step_y), factor) for i in (0, 1)]
            if all(map(_is_white, cells)):
                continue  # white: beyond the last pair
            found.append(cells)
    each = max(1, budget // max(1, 2 * len(found)))
    return [Pair(*(encoded(cell, budget=each, side=side) for cell in cells)) for cells in found]


def _cell(sheet: Image, place: tuple[int, int], step: tuple[int, int], factor: int) -> Image:
    """One picture of the sheet, at its own size: the sheet shows each of its pixels `factor` times."""
    from PIL import Image as PILImage

    left, top = _GAP + place[1] * step[0], _GAP + place[0] * step[1]
    width, height = step[0] - _GAP, step[1] - _GAP
    cell = sheet.crop((left, top, left + width, top + height))
    return cell.resize((width // factor, height // factor), PILImage.Resampling.NEAREST)


def _is_white(picture: Image) -> bool:
    low, high = picture.convert("L").getextrema()
    return low == high == 255
