"""Sizes, forms and colours of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.data.geometry import stored_size
from ldm_plugin_datasheet.amounts import Amounts, Wanted
from ldm_plugin_datasheet.examples import Examples
from ldm_plugin_datasheet.facts import Fit, Pictures, Size, Span

_SIZES = 20  # sizes that are listed
_SQUARE = 1.02  # a side by the other one up to which a picture counts as square
_ENOUGH = 500_000  # pixels of a picture, evenly spread, for its colour
_SAVED = 8  # times that a JPEG is decoded faster, as it comes smaller
_SMALL = (64, 64)  # twice this is enough of a picture for its colour


@attrs.define
class _Colour:
    """Sums over pictures of the means of their levels and of their squares."""

    pictures: int = 0
    first: NDArray[np.float64] = attrs.field(factory=lambda: np.zeros(3))
    second: NDArray[np.float64] = attrs.field(factory=lambda: np.zeros(3))
    grey: bool = True

    def add(self, image: Any) -> None:
        """Count a picture: a PIL image, or uint8 (c, H, W)."""
        planes = np.asarray(image)
        if not isinstance(image, np.ndarray):
            planes = planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1)
        step = max(1, int((planes[0].size / _ENOUGH) ** 0.5))
        planes = planes[:, ::step, ::step]
        levels = planes.reshape(len(planes), -1).astype(np.float32) / 255
        self.pictures += 1
        self.first += levels.mean(axis=1, dtype=np.float64)
        self.second += np.square(levels).mean(axis=1, dtype=np.float64)
        self.grey = self.grey and (len(planes) == 1 or bool((planes == planes[:1]).all()))

    def mean(self) -> list[float]:
        """Each channel's mean."""
        return [round(float(n), 4) for n in self.first / max(1, self.pictures)]

    def std(self) -> list[float]:
        """Each channel's standard deviation over all pixels."""
        mean = self.first / max(1, self.pictures)
        spread = np.sqrt(np.maximum(self.second / max(1, self.pictures) - mean**2, 0))
        return [round(float(n), 4) for n in spread]


def pictures(examples: Examples, wanted: Wanted) -> Pictures:
    """Headers of some pictures, and the colours of some of them. Pictures without a readable header are decoded, for
    the reason."""
    view, amounts = examples.pictures(), wanted.amounts
    drawn = examples.some(view, max(amounts.headers, amounts.pictures))
    heads = drawn[: amounts.headers]
    sizes, told = _headers(examples, view, heads)
    if sizes.any():
        unknown = [int(index) for index, size in zip(heads, sizes, strict=True) if not size.all()]
        chosen = _affordable(drawn, np.prod(sizes, axis=1), told, amounts)
        further = _sizes(examples, view, unknown)
        colour, _ = _colours(examples, view, np.setdiff1d(chosen, unknown))
        sizes = np.concatenate([sizes[sizes.all(axis=1)], further])
    else:  # they are told by nothing but the pictures
        heads = drawn[: amounts.pictures]
        colour, sizes = _colours(examples, view, heads)
    way = None if wanted.size is None else fit(sizes, wanted.size, wanted.rule, wanted.recipe)
    return _facts(sizes, Counter(filter(None, told)), colour, len(heads), way)


def _headers(examples: Examples, view: Any, drawn: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
    """(N, 2) heights and widths of the pictures at `drawn`, zeros for unknown ones, and their forms, if they are
    told."""
    told = of(DatasetAnswers, view)
    sizes = np.zeros((len(drawn), 2), dtype=np.int64)
    forms = [""] * len(drawn)
    for place, index in enumerate(drawn if told.image_size else ()):
        sizes[place] = told.image_size(int(index))  # type: ignore[misc]
        if told.image_form and sizes[place].all():
            forms[place] = told.image_form(int(index)) or "not known"
        examples.tell("headers", place + 1, len(drawn))
    return sizes, forms


def _sizes(examples: Examples, view: Any, unknown: Sequence[int]) -> NDArray[np.int64]:
    """The sizes of the readable ones among `unknown`."""
    read = (examples.read(view, index) for index in unknown)
    return np.array([stored_size(each["image"]) for each in read if each], dtype=np.int64).reshape(-1, 2)


def _affordable(
    drawn: NDArray[np.int64], pixels: NDArray[np.int64], forms: Sequence[str], amounts: Amounts
) -> NDArray[np.int64]:
    """The first of `drawn`, with no more `pixels` together than are to be decoded."""
    cost = np.where([form.startswith("JPEG") for form in forms], pixels // _SAVED, pixels)
    many = int(np.searchsorted(np.cumsum(cost), amounts.pixels, side="right"))
    many = len(drawn) if many == len(pixels) else max(many, amounts.fewest)
    return drawn[: min(amounts.pictures, many)]


def _colours(
    examples: Examples, view: Any, chosen: Sequence[int] | NDArray[np.int64]
) -> tuple[_Colour, NDArray[np.int64]]:
    """The colours of the pictures at `chosen`, and the sizes (N, 2) of the readable ones."""
    reduced = of(DatasetAnswers, view).reduced
    small = view if reduced is None else reduced([_SMALL], "pad", 1.0)
    colour, sizes = _Colour(), []
    for example in examples.each("pictures", small, chosen):
        colour.add(example["image"])
        sizes.append(stored_size(example["image"]))
    return colour, np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _facts(sizes: NDArray[np.int64], forms: Counter[str], colour: _Colour, headers: int, way: Fit | None) -> Pictures:
    heights, widths = sizes[:, 0], sizes[:, 1]
    counted = Counter(zip(widths.tolist(), heights.tolist(), strict=True))
    aspect = widths / np.maximum(heights, 1)
    wide, tall = int((aspect > _SQUARE).sum()), int((aspect < 1 / _SQUARE).sum())
    return Pictures(
        headers=headers,
        distinct=len(counted),
        sizes=[Size(width, height, count) for (width, height), count in _frequent(counted, _SIZES)],
        width=Span.of(widths),
        height=Span.of(heights),
        aspect=Span.of(aspect),
        landscape=wide,
        portrait=tall,
        square=len(sizes) - wide - tall,
        forms=dict(_frequent(forms, len(forms))),
        decoded=colour.pictures,
        grey=colour.grey and colour.pictures > 0,
        mean=colour.mean() if colour.pictures else (),
        std=colour.std() if colour.pictures else (),
        fit=way,
    )


def _frequent(counted: Counter[Any], most: int) -> list[tuple[Any, int]]:
    """The most frequent ones, equals in their own order: the same in every process."""
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:most]


def fit(sizes: NDArray[np.int64], size: tuple[int, int], rule: str, recipe: str) -> Fit:
    """The way of pictures of `sizes` (N, 2) to `size` (h, w)."""
    heights, widths = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    multiples = np.stack([heights / size[0], widths / size[1]])
    area = float(size[0] * size[1])
    if rule == "crop":
        times = multiples.min(axis=0) if len(sizes) else multiples[0]
        lost = 1 - area * times**2 / np.maximum(heights * widths, 1)
    else:
        times = multiples.max(axis=0) if len(sizes) else multiples[0]
        lost = 1 - heights * widths / np.maximum(area * times**2, 1e-9)
    return Fit(
        size=size,
        rule=rule,
        recipe=recipe,
        times=Span.of(times),
        lost=Span.of(np.maximum(lost, 0)),
        enlarged=int((times < 1).sum()),
        of=len(sizes),
    )
