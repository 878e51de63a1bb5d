"""Boxes as a picture, each with a tag in its colour; a tag names the box's class and covers no other tag."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.data import images
from ldm_core.errors import clean

_PAPER = (245, 245, 245)
_POINTS = 12
Area = tuple[int, int, int, int]  # left, top, right, bottom


def colour(label: int) -> tuple[int, int, int]:
    """The same colour for the same class everywhere; neighbours in number are far apart in hue, 0 is grey, as it often
    is the background."""
    if label == 0:
        return (140, 140, 140)
    value, saturation = 0.9 - 0.175 * (label % 3), 0.55 + 0.4 * (label % 2)
    red, green, blue = colorsys.hsv_to_rgb(label * 0.61803 % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def drawn(
    boxes: NDArray[Any],
    labels: Any,
    size: tuple[int, int],
    names: Sequence[str],
    over: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Boxes (N, 4) as x, y, w, h in [0, 1] with the names of their classes -> uint8 (3, *size), on light paper or
    `over` a picture, uint8 (3, *size), of which more stays to be seen.

    The outlines come first, the largest at the bottom, then a tag for each box, at its upper left corner or, if another
    tag is there, at the nearest free place beside or below.
    """
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (size[1], size[0]), _PAPER) if over is None else images.to_picture(over)
    draw = ImageDraw.Draw(canvas)
    numbers = [int(n) for n in np.asarray(labels).reshape(-1)] if labels is not None else [0] * len(boxes)
    areas = [_pixels(box, size) for box in boxes.reshape(-1, 4)]
    order = sorted(range(min(len(areas), len(numbers))), key=lambda i: -_extent(areas[i]))
    for i in order:
        if over is not None:  # a rim in black: no colour is told apart from every picture
            draw.rectangle(_wider(areas[i], size), outline="black", width=4)
        draw.rectangle(areas[i], outline=colour(numbers[i]), width=2)
    texts = [_text(number, names, labels is not None) for number in numbers]
    font = images.font_for(texts, _POINTS)
    taken: list[Area] = []
    for i in order:
        if texts[i]:
            text = _fitting(texts[i], font, size[1] - 6)
            tag = _place(areas[i], (round(font.getlength(text)) + 5, _POINTS + 4), size, taken)
            taken.append(tag)
            fill = colour(numbers[i])
            light = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 140
            draw.rectangle(tag, fill=fill)
            middle = (tag[0] + 3, (tag[1] + tag[3]) // 2 + 1)
            draw.text(middle, text, fill="black" if light else "white", font=font, anchor="lm")
    return np.ascontiguousarray(np.asarray(canvas).transpose(2, 0, 1))


def _pixels(box: NDArray[Any], size: tuple[int, int]) -> Area:
    x, y, w, h = (float(v) for v in box)
    left, right = sorted((round(x * (size[1] - 1)), round((x + w) * (size[1] - 1))))
    top, bottom = sorted((round(y * (size[0] - 1)), round((y + h) * (size[0] - 1))))
    return left, top, right, bottom


def _wider(area: Area, size: tuple[int, int]) -> Area:
    return max(0, area[0] - 1), max(0, area[1] - 1), min(size[1] - 1, area[2] + 1), min(size[0] - 1, area[3] + 1)


def _extent(area: Area) -> int:
    return (area[2] - area[0]) * (area[3] - area[1])


def _text(number: int, names: Sequence[str], labelled: bool) -> str:
    if not labelled:
        return ""
    return clean(names[number], 60) if 0 <= number < len(names) else str(number)


def _fitting(text: str, font: Any, width: int) -> str:
    """`text`, or its beginning up to the width."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _place(box: Area, tag: tuple[int, int], size: tuple[int, int], taken: Sequence[Area]) -> Area:
    """The place of a tag of (width, height): within the picture, on no other tag if there is room."""
    wide, high = tag
    most_left, most_top = max(0, size[1] - 1 - wide), max(0, size[0] - 1 - high)
    corners = [(box[0], box[1]), (box[0], box[1] - high), (box[2] - wide, box[1]), (box[0], box[3] - high)]
    corners += [(box[0], box[3]), (box[2], box[1]), (box[2], box[3] - high)]
    corners += [(box[0], box[1] + step * (high + 1)) for step in range(1, 1 + size[0] // (high + 1))]
    corners += [(box[0], box[1] - step * (high + 1)) for step in range(1, 1 + size[0] // (high + 1))]
    places = [
        (left, top, left + wide, top + high)
        for left, top in ((min(max(0, x), most_left), min(max(0, y), most_top)) for x, y in corners)
    ]
    return next((p for p in places if not any(_meet(p, other) for other in taken)), places[0])


def _meet(one: Area, other: Area) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
