"""Examples for a sheet, with everything drawn of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Dataset, DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.data.geometry import stored_size
from ldm_core.data.images import to_channels, to_picture
from ldm_core.data.records.sources import Captions
from ldm_plugin_datasheet.amounts import places
from ldm_plugin_datasheet.counts.labels import name_of, unnamed
from ldm_plugin_datasheet.examples import Examples, Tell, silent

if TYPE_CHECKING:
    from PIL.Image import Image

_VALUES = ("caption", "class_label", "boxes", "box_labels")
_PANELS = 2  # maps and further pictures drawn beside one
_LARGEST = 512  # pixels of a side that are kept of a picture
_LONGEST = 4  # times its height that a picture is wide, or the other way round, where it is drawn whole
Box = tuple[float, float, float, float]
"""x, y, width, height from 0 to 1."""
_ALL: Box = (0.0, 0.0, 1.0, 1.0)
_TRIES = 4  # examples drawn for each one that is wanted, as some may not read


@attrs.frozen(eq=False)
class Label:
    """A class as a sheet shows it: `key` tells the lists of classes apart."""

    key: str
    number: int
    name: str


@attrs.frozen(eq=False)
class Panel:
    """A map or a further picture beside a picture: `classes` (H, W) are numbers of `labels`."""

    key: str
    picture: Image | None = None
    classes: NDArray[np.int64] | None = None
    labels: Mapping[int, Label] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Pick:
    """An example: its picture, not larger than is drawn, and its own (height, width). Of a very long picture it
    is the middle, and `whole` is False."""

    picture: Image
    size: tuple[int, int]
    whole: bool = True
    captions: Sequence[str] = ()
    label: Label | None = None
    boxes: Sequence[tuple[Box, Label | None]] = ()
    panels: Sequence[Panel] = ()


Beside = Callable[[object, int], Iterable[Panel]]
"""The picture and the index of an example -> what is made of it."""


def picks(dataset: Dataset, count: int, seed: int, tell: Tell = silent, beside: Beside | None = None) -> list[Pick]:
    """At most `count` readable examples, drawn by `seed`, in the order of the data. Panels of `beside` come first."""
    examples = Examples(dataset, seed)
    wanted = [key for key, kind in examples.keys.items() if key in _VALUES or kind in ("map", "image")]
    pictures = examples.pictures()
    views = {key: examples.view("image", key) for key in wanted if key != "image"}
    whole = [key for key, view in views.items() if view is not None and len(view) == len(pictures)]
    base = (examples.view("image", *whole) if whole else None) or pictures
    whole = ["image", *(whole if base is not pictures else ())]
    others = _Others(examples, [key for key in wanted if key not in whole])
    found: dict[int, Pick] = {}
    reduced = of(DatasetAnswers, base).reduced
    base = base if reduced is None else reduced([(_LARGEST, _LARGEST)], "pad", 1.0)
    drawn = places(_TRIES * count, len(base), seed)
    for index in np.random.default_rng(seed).permutation(drawn) if len(drawn) == len(base) else drawn:
        example = examples.read(base, int(index))
        if example is not None:
            made = () if beside is None else beside(example["image"], int(index))
            found[int(index)] = _pick(dataset, {**example, **others.of(int(index))}, made)
            tell("sheet", len(found), min(count, len(base)))
        if len(found) == count:
            break
    return [found[index] for index in sorted(found)]


class _Others:
    """The values of keys of some examples alone, found by the examples' names."""

    def __init__(self, examples: Examples, keys: Iterable[str]) -> None:
        self._examples = examples
        self._views: dict[str, tuple[Any, dict[str, int]]] = {}
        for key in keys if "name" in examples.keys else ():
            view = examples.view("name", key)
            if view is not None and len(view):
                self._views[key] = view, _places_by_name(view.select(["name"]))
        named = examples.view("image", "name") if self._views else None
        self._names = None if named is None else named.select(["name"])

    def of(self, index: int) -> dict[str, Any]:
        """The values of the example at `index` of those with pictures."""
        if self._names is None:
            return {}
        name, found = str(self._names[index]["name"]), dict[str, Any]()
        for view, at in self._views.values():
            example = None if name not in at else self._examples.read(view, at[name])
            found |= example or {}
        return found


def _places_by_name(named: Any) -> dict[str, int]:
    """Name -> index; names of several examples are left out."""
    found: dict[str, int] = {}
    double = set()
    for index in range(len(named)):
        name = str(named[index]["name"])
        if name in found:
            double.add(name)
        found[name] = index
    return {name: index for name, index in found.items() if name not in double}


def _pick(dataset: Dataset, example: Mapping[str, Any], made: Iterable[Panel]) -> Pick:
    caption = example.get("caption")
    captions = caption.texts if isinstance(caption, Captions) else () if caption is None else (str(caption),)
    label, size = example.get("class_label"), stored_size(example["image"])
    window = _window(size)
    return Pick(
        picture=_picture(example["image"], window),
        size=size,
        whole=window == _ALL,
        captions=[" ".join(text.split()) for text in captions],
        label=None if label is None else _label(dataset, "class_label", int(label)),
        boxes=list(_boxes(dataset, example, window)),
        panels=[*made, *_panels(dataset, example, window)][:_PANELS],
    )


def _window(size: tuple[int, int]) -> Box:
    """The drawn part of a picture of `size`, as x, y, width, height: all of it, or the middle of a very long one."""
    height, width = size
    if width > _LONGEST * height:
        share = _LONGEST * height / width
        return (1 - share) / 2, 0.0, share, 1.0
    if height > _LONGEST * width:
        share = _LONGEST * width / height
        return 0.0, (1 - share) / 2, 1.0, share
    return _ALL


def _label(dataset: Dataset, key: str, number: int) -> Label:
    return Label(key, number, name_of(number, dataset.class_names.get(key, ())) or unnamed(number))


def _boxes(dataset: Dataset, example: Mapping[str, Any], window: Box) -> Iterator[tuple[Box, Label | None]]:
    rows = np.asarray(example.get("boxes", ()), dtype=np.float64).reshape(-1, 4)
    labels = [int(n) for n in np.asarray(example.get("box_labels", ()))]
    low = (rows[:, :2] - window[:2]) / window[2:]
    high = (rows[:, :2] + rows[:, 2:] - window[:2]) / window[2:]
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    for number, (x, y, right, bottom) in enumerate(np.concatenate([low, high], axis=1).tolist()):
        if right > x and bottom > y:
            label = _label(dataset, "box_labels", labels[number]) if number < len(labels) else None
            yield (x, y, right - x, bottom - y), label


def _panels(dataset: Dataset, example: Mapping[str, Any], window: Box) -> Iterator[Panel]:
    """Label maps first, then masks, then further pictures."""
    rank = {key: (0 if key in dataset.classes else 1) if kind == "map" else 2 for key, kind in dataset.keys.items()}
    for key in sorted((k for k in example if k in dataset.keys and k != "image"), key=lambda k: (rank[k], k)):
        kind, value = dataset.keys[key], example[key]
        if kind == "image":
            yield Panel(key, picture=_picture(value, window))
        elif kind == "map" and np.ndim(value) == 2:
            yield _map(dataset, key, np.asarray(value), window)


def _map(dataset: Dataset, key: str, value: NDArray[Any], window: Box) -> Panel:
    if key not in dataset.classes:
        most = int(value.max(initial=0))
        levels = value.astype(np.float64) * (255 if most <= 1 else 1)
        return Panel(key, picture=_picture(np.clip(levels, 0, 255).astype(np.uint8)[None], window))
    left, top, right, bottom = _pixels(window, value.shape[1], value.shape[0])
    seen = value[top:bottom, left:right]
    step = max(1, -(-max(seen.shape) // _LARGEST))  # every nth pixel: classes do not blend
    classes = seen[::step, ::step].astype(np.int64)
    return Panel(key, classes=classes, labels={int(n): _label(dataset, key, int(n)) for n in np.unique(classes)})


def _pixels(window: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part of a picture of `width` and `height`, one pixel at least."""
    left, top = round(window[0] * width), round(window[1] * height)
    right, bottom = round((window[0] + window[2]) * width), round((window[1] + window[3]) * height)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _picture(image: Any, window: Box) -> Image:
    """The seen part of a picture as an RGB image, made smaller if it is larger than on any sheet."""
    from PIL import Image as PILImage

    picture: Image = to_picture(to_channels(image, 3)) if isinstance(image, np.ndarray) else image
    picture = picture.convert("RGB")
    if window != _ALL:
        picture = picture.crop(_pixels(window, *picture.size))
    scale = _LARGEST / max(picture.size)
    if scale >= 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, PILImage.Resampling.LANCZOS)
