"""The facts of a data sheet: frozen values, without a word on how they are written down. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import ArrayLike

from ldm_core import storage
from ldm_core.config.structure import unstructure
from ldm_core.contracts import EMPTY

FORMAT = 1
"""Version of the plain values."""


@attrs.frozen
class Span:
    """The spread of a number over examples: its least, twentieth, median, nineteen twentieths and most."""

    least: float
    low: float
    median: float
    high: float
    most: float

    @classmethod
    def of(cls, values: ArrayLike) -> Span | None:
        """The span of `values` (N,); None without any."""
        array = np.asarray(values, dtype=np.float64).ravel()
        if not array.size:
            return None
        return cls(*(round(float(n), 6) for n in np.quantile(array, (0, 0.05, 0.5, 0.95, 1))))


@attrs.frozen
class Looked:
    """The number of examples of each look, of `of` in all: headers, values (captions, classes, boxes), decoded pictures
    and decoded maps. `whole`: everything was asked for."""

    of: int
    headers: int
    values: int
    pictures: int
    maps: int
    whole: bool


@attrs.frozen
class Key:
    """A key of the examples, its geometry, and how many examples `have` it."""

    name: str
    geometry: str
    have: int
    about: str = ""


@attrs.frozen
class Size:
    """Pictures of one size."""

    width: int
    height: int
    count: int


@attrs.frozen
class Fit:
    """The way of pictures to the image size of a run, `size` (h, w), by `rule` (crop, pad).

    `times`: a picture's size as a multiple of the image size, on the deciding side; below 1 it is enlarged.
    `lost`: the share of a picture's area cut off by a crop, or of the padding in the image.
    """

    size: tuple[int, int]
    rule: str
    recipe: str
    times: Span | None
    lost: Span | None
    enlarged: int
    of: int


@attrs.frozen
class Pictures:
    """Pictures by their headers, and the colour of those decoded.

    `sizes`: the most frequent ones, of `distinct`. `aspect`: width by height. `forms`: format and mode -> pictures.
    `mean` and `std` of the colour are red, green, blue from 0 to 1 over all pixels, each picture with the same weight.
    """

    headers: int
    distinct: int
    sizes: Sequence[Size]
    width: Span | None
    height: Span | None
    aspect: Span | None
    landscape: int
    portrait: int
    square: int
    forms: Mapping[str, int]
    decoded: int
    grey: bool
    mean: Sequence[float]
    std: Sequence[float]
    fit: Fit | None = None


@attrs.frozen
class Captions:
    """Captions of `pictures` pictures: `texts` of them, as some pictures may have `several`.

    `doubled`: texts of another picture as well; `doubles`: the most frequent of them. `words` and `letters` are
    the lengths; `frequent`: the words of most captions.
    """

    pictures: int
    texts: int
    several: int
    empty: int
    doubled: int
    doubles: Sequence[tuple[str, int]]
    words: Span | None
    letters: Span | None
    frequent: Sequence[tuple[str, int]]


@attrs.frozen
class ClassCount:
    """A class with its number, its name if it has one, and how often it was seen."""

    number: int
    name: str
    count: int


@attrs.frozen
class Classes:
    """Classes of a key: `seen` in the order of their numbers, of `of`; `absent` are those not seen, the first few by
    name. `imbalance`: the most frequent by the least frequent of those seen."""

    key: str
    of: int
    labels: int
    seen: Sequence[ClassCount]
    unseen: int
    absent: Sequence[str]
    imbalance: float


@attrs.frozen
class Boxes:
    """Boxes of `pictures` pictures. `side`: the root of a box's share of the area; `flat`: boxes without area."""

    pictures: int
    boxes: int
    without: int
    in_picture: Span | None
    width: Span | None
    height: Span | None
    side: Span | None
    flat: int
    classes: Classes | None


@attrs.frozen
class Area:
    """A class of label maps: its share of the area, each map with the same weight, and the maps with it."""

    number: int
    name: str
    share: float
    maps: int


@attrs.frozen
class Maps:
    """Label maps, or masks (without classes): `covered` is the share of a map's area other than 0."""

    key: str
    maps: int
    of: int
    classes: Sequence[Area]
    unlabeled: float
    covered: Span | None


@attrs.frozen
class Unreadable:
    """An unreadable example: its name and the reason."""

    name: str
    why: str


@attrs.frozen
class Part:
    """One data set: `title` is its place or name, `use` its reader; `held_out`: examples of its split `val`."""

    title: str
    use: str
    examples: int
    held_out: int | None
    looked: Looked
    keys: Sequence[Key]
    lacks: Mapping[str, str]
    pictures: Pictures
    captions: Captions | None
    classes: Sequence[Classes]
    boxes: Boxes | None
    maps: Sequence[Maps]
    unreadable: Sequence[Unreadable]
    remarks: str


@attrs.frozen
class Need:
    """A key read by a conditioner, how many of all examples `have` it, and why not all do. `made`: the degradation to
    make it where no example has it; "" without one."""

    conditioner: str
    key: str
    have: int
    of: int
    why: str
    made: str = ""


@attrs.frozen
class DataSheet:
    """All facts of data, one :class:`Part` a data set. `lacks`: keys not offered by a mixture of them, with the
    reasons. `needs` and `problems`: of the asked conditioners or recipe; a run would stop at a problem."""

    parts: Sequence[Part]
    seed: int
    lacks: Mapping[str, str] = EMPTY
    needs: Sequence[Need] = ()
    problems: Sequence[str] = ()
    checked: str = ""
    """The recipe and conditioners held to the data, in words; empty without any."""

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON, which is handed on with the model: of local paths the last name is left."""
        found = unstructure(self)
        for row, part in zip(found["parts"], self.parts, strict=True):
            row["title"] = storage.without_folders(part.title)  # a path as a whole, which may have spaces
        return {"format": FORMAT, **{key: _told(value) for key, value in found.items()}}


def _told(value: object) -> object:
    if isinstance(value, str):
        return storage.told_without_folders(value)
    if isinstance(value, dict):
        return {key: _told(each) for key, each in value.items()}
    return [_told(each) for each in value] if isinstance(value, list | tuple) else value
