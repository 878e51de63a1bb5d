"""Scenes of ``shapes``: their parts, their random draw and their wording. Needs numpy only."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T")

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38),
    "orange": (245, 140, 20),
    "yellow": (240, 220, 40),
    "green": (35, 155, 60),
    "cyan": (40, 200, 220),
    "blue": (40, 70, 220),
    "purple": (130, 45, 175),
    "pink": (250, 125, 190),
}
"""Name -> RGB. All are far from grey, and every background is grey, so no background passes for a shape."""

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {("red", "star"), ("green", "circle"), ("blue", "triangle"), ("yellow", "square")}
)
"""(colour, shape) pairs that never occur in train; their colours and their shapes each occur in 3/4 or more
of their other combinations."""

CLASS_NAMES: tuple[str, ...] = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""Class c is shape c // 8 in colour c % 8, so that boxes and classes (or a label map) fix the whole scene."""

PLAIN: dict[str, int] = {"white": 245, "light gray": 190, "dark gray": 75, "black": 15}
TEXTURES: tuple[str, ...] = ("striped", "checkered", "noisy")

# Offset of the centre from the middle of the picture, in thirds: (row, column) -> the caption's words.
PLACES: dict[tuple[int, int], str] = {
    (-1, -1): "top left", (-1, 0): "top", (-1, 1): "top right",
    (0, -1): "left", (0, 0): "center", (0, 1): "right",
    (1, -1): "bottom left", (1, 0): "bottom", (1, 1): "bottom right",
}  # fmt: skip

# Diameter range in units of the short side, by number of objects. At 32 px the smallest star is 11 px wide,
# which an f = 4 first stage still holds. Objects two cells apart on one axis are >= 0.46 apart, so the
# largest of several (0.44) never touch.
_DIAMETERS = {1: (0.40, 0.56), 2: (0.35, 0.44), 3: (0.35, 0.40)}
_NEAR, _EDGE, _CENTRE = 0.23, 0.01, 0.04
_DRAWS = 32  # uniforms a scene uses at most


def _layouts(count: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """All choices of ``count`` places, in reading order, that lie two cells apart on at least one axis."""

    def apart(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 2

    return tuple(
        places
        for places in itertools.combinations(sorted(PLACES), count)
        if all(apart(a, b) for a, b in itertools.combinations(places, 2))
    )


_LAYOUTS = {count: _layouts(count) for count in (1, 2, 3)}


@attrs.frozen
class Thing:
    """One object: centre as fractions of height and width, diameter as a fraction of the short side."""

    colour: str
    shape: str
    place: str
    y: float
    x: float
    diameter: float
    rgb: tuple[int, int, int]

    @property
    def class_index(self) -> int:
        """Index into ``CLASS_NAMES``."""
        return SHAPES.index(self.shape) * len(COLOURS) + list(COLOURS).index(self.colour)


@attrs.frozen
class Scene:
    """One scene, independent of the image size."""

    things: tuple[Thing, ...]
    background: str
    numbers: tuple[float, ...]
    """Uniform draws that the background is made from."""

    @property
    def caption(self) -> str:
        """``a red circle at top left and a blue star at right, on a white background``; 24 words at most."""
        parts = [f"{article(t.colour)} {t.colour} {t.shape} at {t.place}" for t in self.things]
        if len(parts) == 1:
            return f"{parts[0]} on a {self.background} background"
        return f"{', '.join(parts[:-1])} and {parts[-1]}, on a {self.background} background"


def article(word: str) -> str:
    """``a`` or ``an``."""
    return "an" if word[0] in "aeiou" else "a"


def pairs_of(which: str) -> tuple[tuple[str, str], ...]:
    """The (colour, shape) pairs called ``seen``, ``held_out`` or ``all``, in a fixed order."""
    every = [(colour, shape) for shape in SHAPES for colour in COLOURS]
    if which == "all":
        return tuple(every)
    return tuple(pair for pair in every if (pair in HELD_OUT_PAIRS) == (which == "held_out"))


def uniforms(seed: int, split: str, index: int, purpose: int = 0) -> NDArray[np.float64]:
    """(32,) numbers in [0, 1) that depend on the arguments alone, on every machine; `purpose` 0: the scene."""
    words = (seed, 1 if split == "val" else 0, index, *((purpose,) if purpose else ()))
    stream = np.random.Philox(np.random.SeedSequence(words))
    # Raw bits, not Generator methods: numpy keeps only the former fixed between its versions.
    return (stream.random_raw(_DRAWS) >> np.uint64(11)).astype(np.float64) / 2.0**53


def draw_scene(numbers: NDArray[np.float64], *, pairs: str, backgrounds: str, shares: Sequence[float]) -> Scene:
    """The scene that ``numbers`` (32 uniforms) stand for."""
    source = iter(numbers.tolist())
    edges = np.cumsum(shares) / np.sum(shares)
    count = min(int(np.searchsorted(edges, next(source), side="right")) + 1, len(shares))
    background = _background(next(source), next(source), backgrounds)
    places = _pick(_LAYOUTS[count], next(source))
    allowed = list(pairs_of(pairs))
    things = []
    for place in places:
        colour, shape = _pick(allowed, next(source))
        allowed.remove((colour, shape))  # a caption never names one thing twice
        low, high = _DIAMETERS[count]
        diameter = low + (high - low) * next(source)
        y, x = (_offset(side, diameter, count == 1, next(source)) for side in place)
        # +-8 of 255: enough that a colour is not one number, too little to reach a neighbour.
        rgb = tuple(min(255, max(0, round(c + 16 * next(source) - 8))) for c in COLOURS[colour])
        things.append(Thing(colour, shape, PLACES[place], y, x, diameter, (rgb[0], rgb[1], rgb[2])))
    return Scene(tuple(things), background, tuple(itertools.islice(source, 5)))


def _pick(choices: Sequence[_T], number: float) -> _T:
    return choices[int(number * len(choices))]


def _background(kind: float, number: float, backgrounds: str) -> str:
    if backgrounds == "mixed":
        backgrounds = _pick(("plain", "gradient", "texture"), kind)
    if backgrounds == "gradient":
        return "gradient"
    return _pick(tuple(PLAIN) if backgrounds == "plain" else TEXTURES, number)


def _offset(side: int, diameter: float, single: bool, number: float) -> float:
    """Centre on one axis, as a fraction of it; the whole object stays inside the picture."""
    if side == 0:
        return 0.5 + _CENTRE * (2 * number - 1)
    far = 0.5 - diameter / 2 - _EDGE
    near = 0.6 * far if single else _NEAR  # a large single object cannot go far, but stays off the centre
    return 0.5 + side * (near + (far - near) * number)
