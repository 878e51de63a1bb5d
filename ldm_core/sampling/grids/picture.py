"""The picture of a grid of samples: a heading for each column and row, a title above. PIL lazily, no torch."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.data import images

Picture = NDArray[np.uint8]
_LEAST = 144  # pixels of a cell's width: headings need room
_ROOM = 40_000_000  # pixels of a page, at most
_GAP, _SEAM, _MARGIN = 8, 2, 12  # between cells, between the pictures of one, around all
_STRIP = 6  # cells of one axis that stand side by side
_GREY = (90, 90, 90)


@attrs.frozen(eq=False)
class Page:
    """One page: `blocks[row][column]` are the pictures of a cell, uint8 (c, h, w) of one size.

    `columns` and `rows` are the headings. Without `rows` there may be one in `columns` for each cell of all lines.
    """

    blocks: Sequence[Sequence[Sequence[Picture]]]
    columns: Sequence[str]
    rows: Sequence[str]
    title: str = ""
    subtitle: str = ""

    def drawn(self) -> Picture:
        """The page as one picture, uint8 (3, H, W)."""
        return _drawn(self)


def flowing(blocks: Sequence[Sequence[Picture]]) -> list[Sequence[Sequence[Picture]]]:
    """The cells of one axis, in lines: one of up to :data:`_STRIP`, or else about a square."""
    most = len(blocks) if len(blocks) <= _STRIP else math.ceil(math.sqrt(len(blocks) * 1.4))
    return [blocks[i : i + most] for i in range(0, len(blocks), most)]


@attrs.frozen(eq=False)
class _Measures:
    """The sizes of a page: of a shown picture and of a cell (h, w), of lines and headings, in pixels."""

    size: tuple[int, int]
    across: int  # pictures of a cell side by side
    cell: tuple[int, int]
    font: Any
    line: int
    title: Sequence[str]
    subtitle: Sequence[str]
    heads: Sequence[Sequence[str]]
    sides: Sequence[Sequence[str]]
    beside: int  # the width of the rows' headings
    single: bool  # each cell has its own heading

    @classmethod
    def of(cls, page: Page) -> _Measures:
        """Measure a page."""
        blocks = [block for line in page.blocks for block in line]
        across = max(math.ceil(math.sqrt(max(1, len(block)))) for block in blocks)
        down = max(-(-max(1, len(block)) // across) for block in blocks)
        most = max(len(line) for line in page.blocks)
        size = _shown_size([p for block in blocks for p in block], (len(page.blocks) * down, most * across))
        cell = (down * (size[0] + _SEAM) - _SEAM, across * (size[1] + _SEAM) - _SEAM)
        points = min(28, max(14, cell[1] // 16))
        font = images.font_for([*page.columns, *page.rows, page.title, page.subtitle], points)
        heads = [_wrapped(text, font, cell[1], 4) for text in page.columns]
        sides = [_wrapped(text, font, 14 * points, 6) for text in page.rows]
        beside = max((round(font.getlength(t)) + 10 for side in sides for t in side), default=0)
        whole = beside + most * (cell[1] + _GAP) - _GAP
        title, subtitle = _wrapped(page.title, font, whole, 4), _wrapped(page.subtitle, font, whole, 3)
        single = len(page.columns) == len(blocks) and not any(page.rows)
        return cls(size, across, cell, font, points + 5, title, subtitle, heads, sides, beside, single)

    @property
    def above(self) -> int:
        """The height of a column's heading."""
        return max((len(head) for head in self.heads), default=0) * self.line + (4 if any(self.heads) else 0)

    @property
    def top(self) -> int:
        """The first pixel below the title."""
        said = len(self.title) + len(self.subtitle)
        return _MARGIN + said * self.line + (6 if said else 0)

    def left(self, column: int) -> int:
        """The first pixel of a column."""
        return _MARGIN + self.beside + column * (self.cell[1] + _GAP)


def _drawn(page: Page) -> Picture:
    from PIL import Image, ImageDraw

    m = _Measures.of(page)
    heights = [m.above if m.single or i == 0 else 0 for i in range(len(page.blocks))]
    width = m.left(max(len(line) for line in page.blocks)) - _GAP + _MARGIN
    height = m.top + sum(heights) + len(page.blocks) * (m.cell[0] + _GAP) - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate([*m.title, *m.subtitle]):
        fill = "black" if i < len(m.title) else _GREY
        draw.text((_MARGIN, _MARGIN + i * m.line), text, fill=fill, font=m.font)
    y, number = m.top, 0
    for row, blocks in enumerate(page.blocks):
        for column, block in enumerate(blocks):
            if heights[row]:
                lines = m.heads[number if m.single else column]
                _write(draw, lines, (m.left(column) + m.cell[1] // 2, y + m.above - 4 - len(lines) * m.line), m, "ma")
            _put(sheet, block, (m.left(column), y + heights[row]), m)
            number += 1
        y += heights[row]
        if row < len(m.sides):
            side = m.sides[row]
            _write(draw, side, (m.left(0) - 10, y + (m.cell[0] - len(side) * m.line) // 2), m, "ra")
        y += m.cell[0] + _GAP
    return np.ascontiguousarray(np.asarray(sheet).transpose(2, 0, 1))


def _write(draw: Any, lines: Sequence[str], at: tuple[int, int], m: _Measures, anchor: str) -> None:
    for i, text in enumerate(lines):
        draw.text((at[0], at[1] + i * m.line), text, fill="black", font=m.font, anchor=anchor)


def _shown_size(pictures: Sequence[Picture], counts: tuple[int, int]) -> tuple[int, int]:
    """The size (h, w) of shown pictures, so many down and across: enlarged by a whole number, or made smaller on a page
    of too many pixels."""
    height, width = pictures[0].shape[1:] if pictures else (_LEAST, _LEAST)
    factor = max(1, -(-_LEAST // width))
    while factor > 1 and height * width * factor**2 * counts[0] * counts[1] > _ROOM:
        factor -= 1
    share = min(1.0, math.sqrt(_ROOM / (height * width * factor**2 * counts[0] * counts[1])))
    return max(16, int(height * factor * share)), max(16, int(width * factor * share))


def _put(sheet: Any, block: Sequence[Picture], corner: tuple[int, int], m: _Measures) -> None:
    from PIL import Image

    height, width = m.size
    for i, one in enumerate(block):
        picture = images.to_picture(images.to_channels(one, 3))
        if picture.size != (width, height):
            how = Image.Resampling.NEAREST if picture.width < width else Image.Resampling.BOX
            picture = picture.resize((width, height), how)
        row, column = divmod(i, m.across)
        sheet.paste(picture, (corner[0] + column * (width + _SEAM), corner[1] + row * (height + _SEAM)))


def _wrapped(text: str, font: Any, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines of `width` pixels; words are cut into pieces only if they have no line's room."""
    if not text:
        return []
    letters = max(4, int(width / max(1.0, font.getlength(text) / len(text))))
    for whole in (True, False):
        for count in range(letters + 2, 3, -1):
            lines = textwrap.wrap(text, count, max_lines=most, placeholder=" ...", break_long_words=not whole)
            if lines and all(font.getlength(line) <= width for line in lines):
                return lines
    return [text[:4]]
