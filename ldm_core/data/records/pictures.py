"""Pictures, label maps and masks of a :class:`~ldm_core.data.records.store.Store`: decoded, sized, held to each
other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts.site import FileCache
from ldm_core.data.geometry import shape_of
from ldm_core.data.images import decode_image, decode_labels, decode_mask, decode_picture, picture_size
from ldm_core.data.palettes import UNLABELED, Palette, read_palette
from ldm_core.data.picture_levels import levels_used, picture_form, remark_on
from ldm_core.data.records.sources import MOST_CLASSES, Sources, bounded
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import DataError, clean, quoted

if TYPE_CHECKING:
    from ldm_core.data.records.config import ReadingConfig
    from ldm_core.data.records.store import Sample, Store

Header = TypeVar("Header")  # what a picture's header says
MOST_PICTURE = 512 << 20
"""Bytes of a picture's file, as stored; a larger one is an attack or a mistake."""
_HEADS = (4 << 10, 64 << 10, 1 << 20)  # bytes of a picture's beginning in which its size is looked for
_MAPS_LOOKED_AT = 256  # label maps decoded to count classes where nothing says how many there are
_MORE_MAPS = 4096  # those decoded once where one of the rest holds a further class
_DEPTHS_LOOKED_AT = 8  # pictures of formats with more than 8 bits, to tell which of their levels are used
_EIGHT_BITS = ("jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif")


class Pictures:
    """Shared state of one data set's views: the checked pictures, and the findings."""

    def __init__(
        self, config: ReadingConfig, channels: int, store: Store, sources: Sources, cache: FileCache | None
    ) -> None:
        self._config, self._channels, self._store, self._sources = config, channels, store, sources
        self._cache = cache
        self.palette = _palette(store, config.palette)
        self._sizes: NDArray[np.int64] | None = None
        self._remark: str | None = None
        self._counted: dict[str, int] = {}  # the highest class that maps hold, where nothing says how many there are
        self._matching = bytearray(len(store.samples))  # 1: a map is known to be as large as its picture

    # ------------------------------------------------------------------------------------------------ decoding

    def image(self, sample: Sample, extension: str, enough: Callable[[int, int], tuple[int, int]] | None = None) -> Any:
        """uint8 (channels, H, W); with `enough`, a PIL image that may be smaller (see :func:`decode_picture`)."""
        data = bounded(self._store, sample, extension, MOST_PICTURE)
        white = self._config.white_level
        if enough is not None:
            return decode_picture(data, self._channels, sample.name, enough, white)
        return decode_image(data, self._channels, sample.name, white)

    def mask(self, sample: Sample, extension: str) -> NDArray[np.int64]:
        """Grey levels (H, W)."""
        return decode_mask(bounded(self._store, sample, extension, MOST_PICTURE), sample.name)

    def labels(self, key: str, sample: Sample, extension: str, count: int | None) -> NDArray[np.int64]:
        """Classes (H, W); ValueError for one not below `count`, if there is a count."""
        labels = decode_labels(bounded(self._store, sample, extension, MOST_PICTURE), sample.name, self.palette)
        top = int(labels[labels != UNLABELED].max(initial=0))
        if count is not None and top >= count:
            raise ValueError(f"holds class {top}, the highest is {count - 1}{self._more_classes(key, top)}")
        return labels

    # ------------------------------------------------------------------------------------------------- classes

    def highest_class(self, key: str) -> int:
        """The highest class in the first label maps of `key`, or in the palette."""
        if self.palette is not None:
            return self.palette.count - 1
        self._counted[key] = self._highest(key, self._having(key)[:_MAPS_LOOKED_AT])
        return self._counted[key]

    def _having(self, key: str) -> list[Sample]:
        extension = self._sources.by_key[key][0].extension
        return [s for s in self._store.samples if extension in s.parts]

    def _highest(self, key: str, having: Sequence[Sample]) -> int:
        """The highest class in the label maps of the samples; one that cannot be read is passed over."""
        largest, extension = 0, self._sources.by_key[key][0].extension
        for sample in having:
            try:
                labels = decode_labels(bounded(self._store, sample, extension, MOST_PICTURE), sample.name, self.palette)
            except (DataError, ValueError):
                continue
            largest = max(largest, int(labels[(labels != UNLABELED) & (labels < MOST_CLASSES)].max(initial=0)))
        return largest

    def _more_classes(self, key: str, top: int) -> str:
        """Advice for more classes than the counted maps hold; given once, others are checked."""
        if key not in self._counted or top >= MOST_CLASSES:
            return ""
        if self._counted[key] < top:
            having = self._having(key)[_MAPS_LOOKED_AT : _MAPS_LOOKED_AT + _MORE_MAPS]
            self._counted[key] = max(top, self._highest(key, having))
        return (
            f" of the first {_MAPS_LOOKED_AT} maps, by which classes were counted; if it is a class, set "
            f"dataset.classes='{{{key}: \"{self._counted[key] + 1}\"}}'"
        )

    # --------------------------------------------------------------------------------------------------- sizes

    def all_sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of each picture as its file's header says; zeros if it is not known."""
        if self._sizes is None:
            key = ("picture sizes 1", self._store.digest(), sorted(self._config.read.items()))
            known = None if self._cache is None else self._cache.recall(*key)
            if known is None:
                found = np.array([self.size(s) for s in self._store.samples], dtype=np.int64).reshape(-1, 2)
                if self._cache is not None:
                    self._cache.remember(found.tobytes(), *key)
            self._sizes = found if known is None else np.frombuffer(known, dtype=np.int64).reshape(-1, 2)
        return self._sizes

    def size(self, sample: Sample) -> tuple[int, int]:
        """(H, W) of the sample's picture as its header says, zeros if it is not known."""
        return self._of_header(sample, picture_size) or (0, 0)

    def form(self, sample: Sample) -> str:
        """Format and mode of the sample's picture as its header says, empty if they are not known."""
        return self._of_header(sample, picture_form) or ""

    def _of_header(self, sample: Sample, read: Callable[[bytes], Header | None]) -> Header | None:
        """The finding of `read` in the first bytes of the sample's picture, as many as it takes; None without one."""
        source = next((s for s in self._sources.by_key["image"] if s.extension in sample.parts), None)
        if source is None:
            return None
        whole = self._store.size(sample, source.extension)
        for most in (*_HEADS, MOST_PICTURE):
            try:
                found = read(self._store.fetch(sample, source.extension, min(most, whole)))
            except DataError:
                return None
            if found or most >= whole:
                return found
        return None

    def match(self, example: Mapping[str, Any], keys: Mapping[str, str], sample: Sample, place: int) -> None:
        """Hold pictures and maps of an example to one shape, that of its picture; BadExample naming two that differ."""
        drawn = [key for key, kind in keys.items() if kind in ("image", "map")]
        if not drawn or drawn == ["image"]:
            return
        shapes = {key: shape_of(example[key]) for key in drawn}
        if "image" not in shapes and not self._matching[place] and any(size := self.size(sample)):
            shapes = {"image": size, **shapes}
        first = next(iter(shapes))
        for key, (height, width) in shapes.items():
            tall, wide = shapes[first]
            if (height, width) != (tall, wide):
                turned = (
                    ", or turn it as the picture's EXIF orientation says" if (width, height) == (tall, wide) else ""
                )
                raise BadExample(
                    self._sources.called(sample),
                    f"{key}: {width}x{height} pixels, and '{first}' has {wide}x{tall} (width x height); make them of "
                    f"one size{turned}",
                )
        self._matching[place] = 1  # a picture that is not asked for is looked at once

    # --------------------------------------------------------------------------------------------------- depth

    def remark(self) -> str:
        """Remark on pictures with more than 8 bits and levels that do not fill their range; else empty."""
        if self._remark is None:
            self._remark = "" if self._config.white_level else self._levels_remark()
        return self._remark

    def _levels_remark(self) -> str:
        extensions = [s.extension for s in self._sources.by_key.get("image", ()) if s.extension not in _EIGHT_BITS]
        having = [(s, e) for s in self._store.samples if (e := next((e for e in extensions if e in s.parts), ""))]
        found: dict[str, float] = {}
        for sample, extension in having[:: max(1, len(having) // _DEPTHS_LOOKED_AT)][:_DEPTHS_LOOKED_AT]:
            try:
                used = levels_used(lambda most, s=sample, e=extension: self._head(s, e, most))  # type: ignore[misc]
            except (DataError, ValueError):
                continue
            if used is not None:
                found[used[0]] = max(found.get(used[0], 0), used[1])
        return "; ".join(line for kind, top in found.items() if (line := remark_on(kind, top)))

    def _head(self, sample: Sample, extension: str, most: int) -> bytes:
        if not most:
            return bounded(self._store, sample, extension, MOST_PICTURE)
        return self._store.fetch(sample, extension, min(most, self._store.size(sample, extension)))


def _palette(store: Store, name: str) -> Palette | None:
    """The list of colours that the file `name` beside the data holds; None for no name."""
    if not name:
        return None
    data = store.beside(name)
    if data is None:
        raise DataError(
            f"{store.title}: dataset.palette: no file {quoted(name)} beside the data; give one there with the "
            "colours of the classes"
        )
    return read_palette(data, f"{store.title}: {clean(name, 80)}")
