"""The sheet: pictures in rows, each above its class and caption; boxes and label maps in colour, with a legend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from PIL import Image, ImageDraw

from ldm_core.data.palettes import UNLABELED
from ldm_plugin_datasheet.counts.labels import unnamed
from ldm_plugin_datasheet.drawing.colours import Colour, distinct
from ldm_plugin_datasheet.drawing.letters import Letters
from ldm_plugin_datasheet.drawing.picks import Label, Panel, Pick

SIDES = (176, 144, 112, 88, 64)
"""Pixels of a picture's longer side; the first one with a file small enough is taken."""
Given = tuple[str, int, Sequence[Pick]]
"""A data set: its title, its number of examples, and the drawn ones."""
_COLUMNS = {0: 8, 1: 6, 2: 5}  # by the number of panels beside a picture: sheets are about as wide
_BESIDE = {0: 1.0, 1: 0.72, 2: 0.6}  # a picture's side by the number of panels beside it
_MARGIN, _GAP, _JOINT = 28, 18, 3  # around the sheet, between pictures, between a picture and its panels
_TITLE, _TEXT, _SMALL = 20, 12, 10  # points
_LINE, _SMALL_LINE = 15, 13  # pixels of a line
_LINES = 5  # of a caption
_PAPER, _INK, _FAINT, _EDGE = "#ffffff", "#1c1c1c", "#666666", "#c9c9c5"
_NO_CLASS: Colour = (52, 52, 52)
_GROUND: Colour = (212, 217, 223)  # of the class with the largest area, so that the others stand out
_NO_LABEL: Colour = (230, 30, 60)  # of boxes without classes
_LEGEND = 48  # classes that are listed
_LEAST = 420  # pixels of a sheet's width, for its title


@attrs.frozen
class Block:
    """Everything of one data set with its measures in pixels: the side of a picture, and the width of a place."""

    title: str
    count: int
    picks: Sequence[Pick]
    side: int
    panels: int
    colours: Mapping[str, Colour]

    @property
    def width(self) -> int:
        """The width of a picture and its panels."""
        return self.side * (1 + self.panels) + _JOINT * self.panels

    @property
    def columns(self) -> int:
        """Pictures in a row."""
        return max(1, min(_COLUMNS[self.panels], len(self.picks)))


def draw(given: Sequence[Given], *, side: int = SIDES[0], seed: int = 0) -> tuple[Image.Image, set[str]]:
    """Draw data sets below each other: the picture, and the letters without a font."""
    blocks = [_block(title, count, picks, side) for title, count, picks in given]
    width = max(2 * _MARGIN + b.columns * (b.width + _GAP) - _GAP for b in blocks)
    painter = _Painter(max(width, _LEAST), seed)
    for block in blocks:
        painter.block(block)
    return painter.finished(), painter.letters.lacking


def _block(title: str, count: int, picks: Sequence[Pick], side: int) -> Block:
    panels = max((len(pick.panels) for pick in picks), default=0)
    names = dict.fromkeys(label.name for label in sorted(_labels(picks), key=lambda each: (each.key, each.number)))
    ground = _ground(picks)
    colours = dict(zip((n for n in names if n != ground), distinct(len(names)), strict=False)) if names else {}
    colours = {name: colours.get(name, _GROUND) for name in names}
    return Block(title, count, picks, _whole(picks, round(side * _BESIDE[panels])), panels, colours)


def _ground(picks: Sequence[Pick]) -> str:
    """The class with the largest area in the maps; "" without maps."""
    areas: dict[str, float] = {}
    for panel in (panel for pick in picks for panel in pick.panels if panel.classes is not None):
        assert panel.classes is not None
        numbers, pixels = np.unique(panel.classes, return_counts=True)
        for number, count in zip(numbers.tolist(), pixels.tolist(), strict=True):
            label = panel.labels[number]
            if not _has_no_class(label):
                areas[label.name] = areas.get(label.name, 0) + count / panel.classes.size
    return max(areas, key=lambda name: areas[name], default="")


def _whole(picks: Sequence[Pick], side: int) -> int:
    """A side near `side`, for small pictures to be enlarged by a whole number."""
    longest = sorted(max(pick.picture.size) for pick in picks)
    usual = longest[len(longest) // 2] if longest else side
    better = usual * max(1, round(side / usual))
    return better if 0.75 * side <= better <= 1.25 * side else side


def _labels(picks: Sequence[Pick]) -> Iterator[Label]:
    """Every class of boxes and maps with a colour of its own."""
    for pick in picks:
        yield from (label for _, label in pick.boxes if label is not None)
        for panel in pick.panels:
            yield from (label for label in panel.labels.values() if not _has_no_class(label))


def _has_no_class(label: Label) -> bool:
    return label.number == UNLABELED and label.name == unnamed(UNLABELED)


class _Painter:
    """Draws from the top down on growing paper."""

    def __init__(self, width: int, seed: int) -> None:
        self.letters, self._seed = Letters(), seed
        self._paper = Image.new("RGB", (width, 256), _PAPER)
        self._draw = ImageDraw.Draw(self._paper)
        self._y = _MARGIN

    def finished(self) -> Image.Image:
        """The paper, cut off below the last row."""
        return self._paper.crop((0, 0, self._paper.width, self._y + _MARGIN - _GAP))

    def block(self, block: Block) -> None:
        """Draw a data set: title, legend, rows."""
        self._head(block)
        if block.colours:
            self._legend(block)
        self._y += 6
        for first in range(0, len(block.picks), block.columns):
            self._row(block, block.picks[first : first + block.columns])
        self._y += _GAP

    def _room(self, height: int) -> None:
        """Let the paper reach `height` pixels below the current line."""
        if self._y + height + _MARGIN > self._paper.height:
            taller = Image.new("RGB", (self._paper.width, 2 * (self._y + height + _MARGIN)), _PAPER)
            taller.paste(self._paper, (0, 0))
            self._paper, self._draw = taller, ImageDraw.Draw(taller)

    def _write(self, x: float, baseline: float, text: str, points: int = _TEXT, colour: str = _INK) -> None:
        self.letters.write(self._draw, (x, baseline), text, points, colour)

    def _head(self, block: Block) -> None:
        self._room(60)
        room = self._paper.width - 2 * _MARGIN
        self._write(_MARGIN, self._y + 17, self.letters.shortened(block.title, _TITLE, room), _TITLE)
        some = f"{len(block.picks):,} of {block.count:,} pictures, drawn by seed {self._seed}"
        text = f"all {block.count:,} pictures" if len(block.picks) == block.count else some
        beside = dict.fromkeys(panel.key for pick in block.picks for panel in pick.panels)
        text += f"; beside each picture: {', '.join(beside)}" if beside else ""
        self._write(_MARGIN, self._y + 37, self.letters.shortened(text, _TEXT, room), _TEXT, _FAINT)
        self._y += 50

    def _legend(self, block: Block) -> None:
        """A swatch and a name a class, in as many lines as they need."""
        entries = list(block.colours.items())[:_LEGEND]
        if any(map(_has_no_class, (label for p in block.picks for m in p.panels for label in m.labels.values()))):
            entries.append(("no class (255)", _NO_CLASS))
        x, right = float(_MARGIN), self._paper.width - _MARGIN
        self._room(_LINE)
        for name, colour in entries:
            text = self.letters.shortened(name, _TEXT, 220)
            wide = 18 + self.letters.length(text, _TEXT)
            if x + wide > right and x > _MARGIN:
                x, self._y = float(_MARGIN), self._y + _LINE + 5
                self._room(_LINE)
            self._draw.rectangle((x, self._y, x + 11, self._y + 11), fill=colour)
            self._write(x + 18, self._y + 11, text)
            x += wide + 20
        if (more := len(block.colours) - _LEGEND) > 0:
            self._write(x, self._y + 11, f"and {more:,} more", _TEXT, _FAINT)
        self._y += _LINE + 7

    # -------------------------------------------------------------------------------------------------- rows

    def _row(self, block: Block, picks: Sequence[Pick]) -> None:
        shown = [_fitted(pick.picture, block.side) for pick in picks]
        texts = [list(self._texts(block, pick)) for pick in picks]
        height = max(picture.height for picture in shown)
        below = max(sum(line for *_, line in text) for text in texts)
        self._room(height + below + _GAP)
        for column, (pick, picture, text) in enumerate(zip(picks, shown, texts, strict=True)):
            x = _MARGIN + column * (block.width + _GAP)
            self._tile(block, pick, picture, x, self._y + height)
            y = self._y + height + 4
            for line, points, colour, tall in text:
                y += tall
                self._write(x, y - 3, line, points, colour)
        self._y += height + below + _GAP

    def _texts(self, block: Block, pick: Pick) -> Iterator[tuple[str, int, str, int]]:
        """The lines below a picture: text, points, colour, height."""
        if pick.label is not None:
            yield self.letters.shortened(pick.label.name, _TEXT, block.width), _TEXT, _INK, _LINE
        captions = list(pick.captions)
        text = " · ".join(captions) if captions else ""
        faint = _FAINT if pick.label is not None else _INK
        for line in self.letters.wrap(text, _TEXT, block.width, _LINES):
            yield line, _TEXT, faint, _LINE
        if captions and not text.strip():
            yield "(empty caption)", _SMALL, _FAINT, _SMALL_LINE
        if self._tells_size(block, pick):
            size = f"{pick.size[1]}x{pick.size[0]}" + ("" if pick.whole else ", its middle")
            yield size, _SMALL, _FAINT, _SMALL_LINE

    def _tells_size(self, block: Block, pick: Pick) -> bool:
        return not pick.whole or len({each.size for each in block.picks}) > 1

    def _tile(self, block: Block, pick: Pick, picture: Image.Image, x: int, bottom: int) -> None:
        top = bottom - picture.height
        self._paste(picture, x, top)
        for box, label in pick.boxes:
            self._box(box, _NO_LABEL if label is None else block.colours[label.name], picture, x, top)
        for number, panel in enumerate(pick.panels, 1):
            beside = x + number * (picture.width + _JOINT)
            self._paste(_panel(panel, picture.size, block.colours), beside, top)

    def _paste(self, picture: Image.Image, x: int, top: int) -> None:
        self._paper.paste(picture, (x, top))
        self._draw.rectangle((x - 1, top - 1, x + picture.width, top + picture.height), outline=_EDGE)

    def _box(
        self, box: tuple[float, float, float, float], colour: Colour, picture: Image.Image, x: int, top: int
    ) -> None:
        """A frame of two pixels in the class's colour, and inside of a large one a white line to set it off."""
        left, high = x + box[0] * (picture.width - 1), top + box[1] * (picture.height - 1)
        right, low = left + box[2] * (picture.width - 1), high + box[3] * (picture.height - 1)
        frame = round(left), round(high), round(right), round(low)
        if min(frame[2] - frame[0], frame[3] - frame[1]) > 8:
            self._draw.rectangle((frame[0] + 2, frame[1] + 2, frame[2] - 2, frame[3] - 2), outline=_PAPER)
        self._draw.rectangle(frame, outline=colour, width=2)


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """A picture with its longer side as long as `side`; much smaller ones are enlarged by a whole number."""
    scale = side / max(picture.size)
    if scale >= 2 or scale == 1:
        times = int(scale)
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)


def _panel(panel: Panel, size: tuple[int, int], colours: Mapping[str, Colour]) -> Image.Image:
    if panel.classes is None:
        assert panel.picture is not None
        share = min(size[0] / panel.picture.width, size[1] / panel.picture.height)
        whole = round(panel.picture.width * share), round(panel.picture.height * share)
        return panel.picture.resize((max(1, whole[0]), max(1, whole[1])), Image.Resampling.NEAREST)
    numbers, places = np.unique(panel.classes, return_inverse=True)
    labels = [panel.labels[int(number)] for number in numbers]
    table: Any = np.array([_NO_CLASS if _has_no_class(each) else colours[each.name] for each in labels], dtype=np.uint8)
    return Image.fromarray(table[places.reshape(panel.classes.shape)]).resize(size, Image.Resampling.NEAREST)
