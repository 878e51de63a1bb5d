"""The ``parquet`` data set: rows of Parquet files as examples, by index, in bounded memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Dataset, Site
from ldm_core.data.geometry import GEOMETRIES, Cut, plan, shape_of
from ldm_core.data.images import decode_image, decode_labels, decode_mask, decode_picture
from ldm_core.data.palettes import UNLABELED
from ldm_core.data.picture_levels import picture_form
from ldm_core.data.records.boxes import boxes_of
from ldm_core.data.records.sources import Source, box_labels_of, class_of, text_of, vectors_of
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import DataError, clean, quoted
from ldm_plugin_parquet.config import ParquetConfig
from ldm_plugin_parquet.rows import Rows

_MOST_PICTURE = 512 << 20
_CAPTION = Source(field=("caption",))


class ParquetDataset(Dataset):
    """Rows as examples: `image` uint8 (site.channels, H, W) in its native size, `name` (file and row, counted from 0),
    and `caption`, `class_label`, `boxes`, `box_labels`, `segmentation`, `mask`, `embedding` if there are columns.
    """

    def __init__(self, config: ParquetConfig, site: Site) -> None:
        self.config = config
        self.skipped = 0
        self._channels = site.channels
        self._rows = Rows(config, site.cache)
        self._labels = self._rows.labels
        self._order: Sequence[int] | NDArray[np.int64] = range(len(self._rows))
        self._selected: tuple[str, ...] | None = None
        self._least: tuple[Sequence[tuple[int, int]], Literal["crop", "pad"], float] | None = None
        self.found = {key: n for key in (*self._rows.columns, "name") if (n := self._rows.count(key))}
        self._offer(self.found)

    def _offer(self, keys: Iterable[str]) -> None:
        self.keys: Mapping[str, str] = {key: GEOMETRIES.get(key, "value") for key in keys}
        self.classes: Mapping[str, int] = {k: n for k, n in self._labels.counts.items() if k in self.keys}
        self.class_names: Mapping[str, tuple[str, ...]] = {
            k: names for k, names in self._labels.names.items() if names and k in self.keys
        }

    # ------------------------------------------------------------------------------------------- examples

    def __len__(self) -> int:
        return len(self._order)

    def _row(self, index: int) -> int:
        return int(self._order[range(len(self))[index]])

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self._row(index)
        if self._selected is None and (gaps := [key for key in self.keys if self._rows.lacks(key, row)]):
            raise DataError(self._lack(gaps[0]))
        example = {key: self._value(key, row) for key in self.keys}
        shapes = {k: shape_of(example[k]) for k, kind in self.keys.items() if kind in ("image", "map")}
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{key} {w}x{h}" for key, (h, w) in shapes.items())
            raise BadExample(self._rows.name(row), f"pictures and maps of one row differ in size ({sizes})")
        return example

    def _value(self, key: str, row: int) -> Any:
        name = self._rows.name(row)
        if key == "name":
            return name
        try:
            value = self._rows.cell(key, row)
            if value is None:
                raise ValueError("has no value")
            return self._of(key, value, row)
        except BadExample:
            raise
        except (DataError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            why = str(error).removeprefix(f"{name}: ")
            raise BadExample(name, why if key == "image" else f"{key}: {why}") from error

    def _of(self, key: str, value: Any, row: int) -> Any:
        kind = self._rows.columns[key].kind
        if kind == "picture":
            return self._picture(key, _bounded(value), self._rows.name(row))
        if kind == "text":
            return text_of(value, _CAPTION if key == "caption" else Source())
        if kind == "class":
            return class_of(self._labels.said(key, value), self._labels.names[key], self._labels.counts[key])
        if kind == "classes":
            said = [self._labels.said(key, each) for each in value]
            boxes = self._rows.cell("boxes", row) if "boxes" in self._rows.columns else None
            return box_labels_of(said, self._labels.names[key], self._labels.counts[key], boxes)
        if kind == "boxes":
            return boxes_of(value, self.config, {}, lambda: self._rows.size(row))
        return vectors_of(value) if kind == "vector" else value

    def _picture(self, key: str, data: bytes, name: str) -> Any:
        if key == "mask":
            return decode_mask(data, name)
        if key == "segmentation":
            return _map(data, name, self._labels.counts[key])
        if self._least is not None:
            return decode_picture(data, self._channels, name, self._enough, self.config.white_level)
        return decode_image(data, self._channels, name, self.config.white_level)

    def _enough(self, height: int, width: int) -> tuple[int, int]:
        assert self._least is not None
        sizes, rule, smallest = self._least
        steps = [plan((height, width), size, rule, Cut(smallest)).resized for size in sizes]
        return 2 * max(s[0] for s in steps), 2 * max(s[1] for s in steps)

    # ---------------------------------------------------------------------------------------------- views

    def select(self, keys: Iterable[str]) -> ParquetDataset:
        """A view of examples with only `keys`; DataError for an unknown one, and for rows without one."""
        wanted = tuple(dict.fromkeys(keys))
        if unknown := [key for key in wanted if key not in self.found]:
            key = clean(unknown[0], 60)
            raise DataError(f"{self._rows.title}: has no '{key}'; {self._rows.hint(key)}")
        view = copy(self)
        gaps = {key: there for key in wanted if (there := self._rows.have.get(key)) is not None}
        if gaps:
            order = np.asarray(self._order)
            kept = order[np.logical_and.reduce([there[order] for there in gaps.values()])]
            if len(kept) < len(order) and self.config.missing == "error":
                raise DataError(self._lack(next(key for key, there in gaps.items() if not there[order].all())))
            view.skipped, view._order = self.skipped + len(order) - len(kept), kept
        view._selected = wanted
        view._offer(wanted)
        return view

    def _lack(self, key: str) -> str:
        there, order = self._rows.have[key], np.asarray(self._order)
        assert there is not None
        without = order[~there[order]]
        few = ", ".join(self._rows.name(int(row)) for row in without[:3]) + (", ..." if len(without) > 3 else "")
        return (
            f"{self._rows.title}: {len(without):,} of {len(order):,} rows have no '{key}' ({few}); add them, or leave "
            "those rows out with dataset.missing=skip"
        )

    def counted(self, classes: Mapping[str, int]) -> ParquetDataset:
        """A view with these numbers of classes for keys without names, as a model knows them."""
        view = copy(self)
        view._labels = self._labels.counted(classes)
        view._offer(self.keys)
        return view

    def reduced(self, sizes: Sequence[tuple[int, int]], fit: Literal["crop", "pad"], smallest: float) -> ParquetDataset:
        """A view with PIL images as pictures, decoded smaller if that will do for all of `sizes`."""
        view = copy(self)
        alone = [kind for kind in self.keys.values() if kind in ("image", "map")] == ["image"]
        view._least = (tuple(sizes), fit, smallest) if alone else None
        return view

    # -------------------------------------------------------------------------------------------- answers

    @property
    def lacks(self) -> Mapping[str, str]:
        """Captions and classes, if there are none, and the remedy."""
        return {key: self._rows.hint(key) for key in ("caption", "class_label") if key not in self.found}

    def labels(self, key: str) -> NDArray[np.int64]:
        """(N,) the class of each example; -1 for none."""
        if key not in self._labels.codes:
            raise DataError(f"{self._rows.title}: has no class '{clean(key, 60)}'")
        codes = self._labels.codes[key][np.asarray(self._order)]
        return np.where(codes < self._labels.counts[key], codes, -1)

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) of one picture as its header says, zeros if it is not known."""
        return self._rows.size(self._row(index))

    def image_form(self, index: int) -> str:
        """Format and mode of one picture, as its header says."""
        return picture_form(self._rows.head(self._row(index))) or ""

    def image_sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of each picture, zeros if not known. All pictures are read for it, once."""
        key, cache = ("parquet sizes 1", self.fingerprint()), self._rows.cache
        known = None if cache is None else cache.recall(*key)
        if known is not None:
            return np.frombuffer(known, dtype=np.int64).reshape(-1, 2)
        found = np.array([self.image_size(i) for i in range(len(self))], dtype=np.int64).reshape(-1, 2)
        if cache is not None:
            cache.remember(found.tobytes(), *key)
        return found

    @property
    def max_bad(self) -> float:
        """The largest share of undecodable rows."""
        return self.config.max_bad

    @property
    def many_captions(self) -> bool:
        """True if a row may have several captions."""
        return "caption" in self._rows.columns and not self._rows.columns["caption"].leaf

    def describe(self) -> str:
        """One line: the place, rows and files, and the keys found."""
        return "; ".join(filter(None, [self._rows.describe(self.found), self.remarks()]))

    def remarks(self) -> str:
        """Notes on unread columns, and on large row groups."""
        return self._rows.remarks()

    def fingerprint(self) -> str:
        """Hash of the content and its settings: names, rows, sizes, marks and footers of the files, not their place."""
        settings = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in attrs.asdict(self.config, recurse=False).items()
            if name not in ("url", "max_bad", "keep_bytes")
        }
        state = [settings, self._rows.state(), self._channels, self._selected]
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _bounded(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"expected the bytes of a picture, got {quoted(value, 60)}")
    if len(value) > _MOST_PICTURE:
        raise ValueError(f"has {len(value):,} bytes, at most {_MOST_PICTURE:,} are read; make it smaller")
    return value


def _map(data: bytes, name: str, count: int) -> NDArray[np.int64]:
    """A label map; ValueError for a class not below `count`."""
    labels = decode_labels(data, name)
    top = int(labels[labels != UNLABELED].max(initial=0))
    if top >= count:
        raise ValueError(
            f"holds class {top}, the highest is {count - 1}; if it is a class, set "
            f"dataset.classes='{{segmentation: \"{top + 1}\"}}'"
        )
    return labels
