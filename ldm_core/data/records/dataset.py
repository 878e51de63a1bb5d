"""From stored samples to examples: keys, decoding, class counts, bad and incomplete samples.

The ``tar`` and ``folder`` readers bring a :class:`Store`; all else is here. Only text, JSON and pictures are
decoded: nothing that could run code (pickles, torch files) is ever opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.config.fields import later_defaults
from ldm_core.contracts import Site
from ldm_core.data.arrays import read_header
from ldm_core.data.class_names import read_labels
from ldm_core.data.geometry import GEOMETRIES, Cut, plan
from ldm_core.data.palettes import Rows
from ldm_core.data.records.boxes import annotated_boxes, boxes_of
from ldm_core.data.records.captions import captions_of
from ldm_core.data.records.classes import KEYS, count_classes
from ldm_core.data.records.config import ReadingConfig
from ldm_core.data.records.lacks import lacking, unread
from ldm_core.data.records.pictures import Pictures
from ldm_core.data.records.sources import (
    FIRST_PICTURES,
    NO_VALUE,
    PICTURES,
    Sources,
    box_labels_of,
    class_of,
    text_of,
    vectors_of,
)
from ldm_core.data.records.store import Boxes, Sample, Store
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import DataError, clean

_HEAD = 4 << 10  # bytes of an array's beginning that hold its header
_HEADERS_LOOKED_AT = 16  # of arrays, to tell how wide they are


class RecordDataset:
    """Examples of a :class:`Store`. Pictures have their native size, uint8 (site.channels, H, W).

    `found` counts, per key, the samples that have it. A key that only some have is an error when asked for
    (:meth:`select`), or with ``missing: skip`` leaves the others out; `skipped` counts those.
    """

    def __init__(self, config: ReadingConfig, site: Site, store: Store) -> None:
        self.config = config
        self.skipped = 0
        self._channels = site.channels  # not the site: it may hold functions, and this goes to workers
        self._store = store
        self._sources = Sources(config.read, store)
        self._order: Sequence[int] = range(len(store.samples))
        self._selected: tuple[str, ...] | None = None
        self._least: tuple[Sequence[tuple[int, int]], Any, float] | None = None
        self._pictures = Pictures(config, site.channels, store, self._sources, site.cache)  # shared by all views
        self._index()
        self._offer(self.found)

    # ------------------------------------------------------------------------------------- what there is

    def _index(self) -> None:
        samples = self._store.samples
        fields = self._sources.fields_of_all(samples)
        self._sources.resolve(samples, fields)
        self._have: dict[str, bytearray] = {}
        raw: dict[str, list[Any]] = {}
        for key in self._sources.by_key:
            values = [self._sources.peek(key, *each) for each in zip(samples, fields, strict=True)]
            have = bytearray(value is not NO_VALUE for value in values)
            if any(have):
                self._have[key] = have
                if key in KEYS:
                    raw[key] = values if key != "segmentation" else []
        self._have["name"] = bytearray(b"\x01" * len(samples))
        self._captions = captions_of(samples, fields, self._sources.by_key.get("caption", ()))
        self.many_captions = self._captions.several
        self.found: dict[str, int] = {key: sum(have) for key, have in self._have.items()}
        if "image" not in self.found:
            seen = sorted({"." + extension for sample in samples for extension in sample.parts})
            raise DataError(
                f"{self._store.title}: no pictures; looked for {', '.join('.' + p for p in PICTURES)}, found "
                f"{', '.join(seen[:8]) if seen else 'nothing'}; check the URL or map one: read.image=EXT"
            )
        self.lacks = lacking(self._store.title, self.found, samples, fields, self._sources.box_labels)
        self._unread = unread(self._sources.by_key, fields)
        palette = self._pictures.palette
        known = {"segmentation": palette.names} if palette is not None and palette.names else {}
        self._classes = count_classes(
            self._store, self.config, raw, {**self._store.class_names, **known}, self._pictures.highest_class
        )

    def _geometry(self, key: str) -> str:
        if (known := GEOMETRIES.get(key, "value")) != "value":
            return known
        if key in self.config.geometry:
            return self.config.geometry[key]
        sources = self._sources.by_key.get(key, ())
        return "image" if sources and sources[0].extension in PICTURES else "value"

    def _offer(self, keys: Iterable[str]) -> None:
        self.keys: Mapping[str, str] = {key: self._geometry(key) for key in keys}
        self.classes: Mapping[str, int] = {k: count for k, count in self._classes.counts.items() if k in self.keys}
        self.class_names: Mapping[str, tuple[str, ...]] = {
            key: names for key, names in self._classes.names.items() if names and key in self.keys
        }

    @property
    def widths(self) -> Mapping[str, int]:
        """Length of the vectors of `embedding`, as the first readable header of a file says."""
        sources = self._sources.by_key.get("embedding", ()) if "embedding" in self.keys else ()
        extension = next((s.extension for s in sources if s.extension.endswith("npy")), "")
        having = [s for s in self._store.samples if extension and extension in s.parts]
        for sample in having[:_HEADERS_LOOKED_AT]:
            with suppress(DataError):
                most = min(_HEAD, self._store.size(sample, extension))
                if shape := read_header(self._store.fetch(sample, extension, most), sample.name).shape:
                    return {"embedding": shape[-1]}
        return {}

    @property
    def palettes(self) -> Mapping[str, Rows]:
        """The colours of label maps, where a palette lists them."""
        palette = self._pictures.palette
        return {} if palette is None or "segmentation" not in self.keys else {"segmentation": palette.rows}

    @property
    def max_bad(self) -> float:
        """The share of undecodable examples that :class:`SkipBad` is to let pass."""
        return self.config.max_bad

    # ------------------------------------------------------------------------------------------ examples

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        place = self._order[range(len(self))[index]]
        sample = self._store.samples[place]
        if self._selected is None and (lacking := [key for key in self.keys if not self._have[key][place]]):
            raise DataError(self._lack(lacking))
        fields = self._sources.fields(sample) if self._sources.need_fields(self.keys) else {}
        example = {key: self._value(key, sample, fields) for key in self.keys}
        self._pictures.match(example, self.keys, sample, place)
        return example

    def _value(self, key: str, sample: Sample, fields: Mapping[str, Any]) -> Any:
        if key == "name":
            return sample.name
        source = next(s for s in self._sources.by_key[key] if s.has(sample, fields))
        kind = self.keys[key]
        try:
            if kind in ("image", "map"):
                if kind == "image":
                    return self._pictures.image(sample, source.extension, self._enough if self._least else None)
                if key == "mask":
                    return self._pictures.mask(sample, source.extension)
                return self._pictures.labels(key, sample, source.extension, self._classes.counts.get(key))
            value = self._sources.read(source, sample, fields)
            if key == "caption":
                return text_of(value, source)
            if key == "class_label":
                return class_of(self._classes.said(key, value), self._classes.names[key], self._classes.counts[key])
            if key in ("boxes", "box_labels"):
                return self._of_boxes(key, value, sample, fields if source.field and not source.annotated else {})
            if key == "embedding":
                return vectors_of(value)
            return np.asarray(value) if kind in ("boxes", "per_box") else value
        except BadExample:
            raise
        except (DataError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            called = self._sources.called(sample)
            why = str(error).removeprefix(f"{called}: ").removeprefix(f"{sample.name}: ")
            raise BadExample(called, f"{key}: {why}" if key != "image" else why) from error

    def _of_boxes(self, key: str, value: Any, sample: Sample, fields: Mapping[str, Any]) -> Any:
        if key == "box_labels":
            said = self._classes.said(key, value)
            return box_labels_of(said, self._classes.names[key], self._classes.counts[key], fields.get("boxes"))
        if isinstance(value, Boxes):
            return annotated_boxes(value, lambda: self._pictures.size(sample))
        return boxes_of(value, self.config, fields, lambda: self._pictures.size(sample))

    def select(self, keys: Iterable[str]) -> RecordDataset:
        """A view of examples with only `keys`; DataError if samples lack one of them."""
        wanted = tuple(dict.fromkeys(keys))
        unknown = [key for key in wanted if key not in self._have]
        if unknown and unknown[0] in self.lacks:
            raise DataError(f"{self._store.title}: has no '{unknown[0]}': {self.lacks[unknown[0]]}")
        if unknown:
            raise DataError(
                f"{self._store.title}: has no '{unknown[0]}'; found {', '.join(self.found)}; map another "
                f"extension or field with read: {{{unknown[0]}: NAME}}"
            )
        view = copy(self)
        keep = [place for place in self._order if all(self._have[key][place] for key in wanted)]
        if len(keep) < len(self._order) and self.config.missing == "error":
            raise DataError(self._lack(wanted))
        view.skipped = self.skipped + len(self._order) - len(keep)
        view._order = keep
        view._selected = wanted
        view._offer(wanted)
        return view

    def counted(self, classes: Mapping[str, int]) -> RecordDataset:
        """A view with these numbers of classes (key -> number) where classes have no names: those that a model knows.
        An example with a higher class cannot be read."""
        view = copy(self)
        own = {k: n for k, n in classes.items() if k in self._classes.counts and not self._classes.names.get(k)}
        view._classes = attrs.evolve(self._classes, counts={**self._classes.counts, **own})
        view._offer(self.keys)
        return view

    def reduced(self, sizes: Sequence[tuple[int, int]], fit: Literal["crop", "pad"], smallest: float) -> RecordDataset:
        """A view for :func:`ldm_core.data.geometry.fit`: pictures are PIL images, which saves two copies, and may be
        decoded smaller than they are, as they become one of `sizes` anyway.

        `smallest`: the side of the smallest random cut, as a share. Twice the pixels that are needed stay on each
        side, for the resizing that follows. Nothing changes where several pictures or maps must keep one shape.
        """
        view = copy(self)
        alone = [kind for kind in self.keys.values() if kind in ("image", "map")] == ["image"]
        view._least = (tuple(sizes), fit, smallest) if alone else None
        return view

    def _enough(self, height: int, width: int) -> tuple[int, int]:
        assert self._least is not None
        sizes, rule, smallest = self._least
        steps = [plan((height, width), size, rule, Cut(smallest)).resized for size in sizes]
        return 2 * max(s[0] for s in steps), 2 * max(s[1] for s in steps)

    def image_sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of each picture as its file's header says; zeros if it is not known."""
        return self._pictures.all_sizes()[list(self._order)]

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) of one of them."""
        return self._pictures.size(self._store.samples[self._order[index]])

    def image_form(self, index: int) -> str:
        """Format and mode of one of them, as its file's header says; empty if they are not known."""
        return self._pictures.form(self._store.samples[self._order[index]])

    def labels(self, key: str) -> NDArray[np.int64]:
        """(N,) the class `key` of each example, -1 where it cannot be read."""
        if key == "class_label" and self._classes.labels is not None:
            return self._classes.labels[list(self._order)]
        return read_labels(self.select([key]), key)

    def describe(self) -> str:
        """One line: the place of the data, the number of samples and the keys found."""
        total = len(self._store.samples)
        each = ", ".join(key if n == total else f"{key} ({n} of {total})" for key, n in self.found.items())
        return "; ".join(filter(None, [f"{self._store.title}: {total} samples with {each}", self.remarks()]))

    def remarks(self) -> str:
        """Notes on the captions' source, on left-out files and fields, and on oddities; empty if there are none."""
        labels = "the .txt are labels of boxes and no captions" if self._sources.box_labels else ""
        return "; ".join(
            filter(None, [self._captions.text(), labels, self._store.notes(), self._pictures.remark(), self._unread])
        )

    def _lack(self, keys: Sequence[str]) -> str:
        key = next(key for key in keys if any(not self._have[key][place] for place in self._order))
        without = [self._store.samples[place] for place in self._order if not self._have[key][place]]
        few = ", ".join(clean(self._sources.called(s), 80) for s in without[:3]) + (", ..." if len(without) > 3 else "")
        return (
            f"{self._store.title}: {len(without)} of {len(self._order)} samples have no '{key}' ({few}); "
            "add them, or leave those samples out with dataset.missing=skip"
        )

    def fingerprint(self) -> str:
        """Hash of what is read and how: names, sizes and etags, not the place; equal for a copy elsewhere."""
        return self._fingerprint(former=False)

    def former_fingerprint(self) -> str:
        """The hash as 0.1.0 made it, for the runs of then: unread files count too."""
        return self._fingerprint(former=True)

    def _fingerprint(self, *, former: bool) -> str:
        later = later_defaults(type(self.config))
        settings = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in attrs.asdict(self.config, recurse=False).items()
            if name not in ("url", "max_bad", "keep_bytes", "annotations")
            and (name not in later or value != later[name])
        }
        state = [settings, self._store.digest(former), self._channels, self._selected]
        formats = [s.extension for s in self._sources.by_key["image"] if s.extension in PICTURES]
        if any(PICTURES.index(extension) >= FIRST_PICTURES for extension in formats):  # which 0.1.0 did not read
            state.append("formats")
        if self._pictures.palette is not None:
            state.append([self._pictures.palette.rows, self._pictures.palette.names])
        if self.many_captions:  # which it joined, or did not take
            state.append("several captions")
        no_labels = self._sources.box_labels and "caption" in self.found
        if self._captions.rows_first or no_labels:  # 0.1.0 took the files beside the pictures
            state.append("captions of metadata")
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
