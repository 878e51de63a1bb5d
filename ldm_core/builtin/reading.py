"""From stored samples to examples: which keys there are, decoding, class counts, bad and incomplete samples.

The ``tar`` and ``folder`` readers bring a :class:`Store`; all else is here. Only text, JSON and pictures are
decoded: nothing that could run code (pickles, torch files) is ever opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.builtin.bad_examples import BadExample, SkipBad
from ldm_core.builtin.reading_config import ReadingConfig
from ldm_core.builtin.reading_values import (
    NO_VALUE,
    PICTURES,
    Sources,
    bounded,
    box_labels_of,
    boxes_of,
    class_of,
    read_names,
    text_of,
    vectors_of,
)
from ldm_core.contracts import Site
from ldm_core.errors import DataError
from ldm_core.geometry import Cut, plan
from ldm_core.images import decode_image, decode_labels, decode_picture, picture_size
from ldm_core.npy import read_header

__all__ = ["BadExample", "RecordDataset", "Sample", "SkipBad", "Store"]

MOST_PICTURE = 512 << 20
"""Bytes of a picture's file, as stored; a larger one is an attack or a mistake."""
_HEADS = (4 << 10, 64 << 10, 1 << 20)  # bytes of a picture's beginning in which its size is looked for
_HEADERS_LOOKED_AT = 16  # of arrays, to tell how wide they are
_MAPS_LOOKED_AT = 256  # label maps decoded to count classes where nothing says how many there are


@attrs.frozen
class Sample:
    """One sample as stored: `parts` extension -> where its bytes are (the store's own business)."""

    name: str
    parts: Mapping[str, Any]
    row: Mapping[str, Any] | None = None
    """Fields from a metadata file."""
    folder: str = ""
    """The sub-folder that stands for its class, if any."""


class Store(Protocol):
    """Where samples lie; picklable, safe to use from forked and spawned workers."""

    title: str
    """What messages call it: the URL without credentials."""

    @property
    def samples(self) -> Sequence[Sample]:
        """All samples, in a fixed order."""
        ...

    def size(self, sample: Sample, extension: str) -> int:
        """The number of bytes of one part."""
        ...

    def fetch(self, sample: Sample, extension: str, most: int | None = None) -> bytes:
        """The bytes of one part, or its first `most`."""
        ...

    def fetch_many(self, wanted: Sequence[tuple[Sample, str]]) -> Iterable[bytes]:
        """The bytes of many small parts, in order."""
        ...

    def beside(self, name: str) -> bytes | None:
        """A file that lies beside the data, such as ``classes.json``."""
        ...

    def digest(self) -> str:
        """Hash of names, sizes and etags of all that is read."""
        ...


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
        self._cache = site.cache
        self._native: dict[str, NDArray[np.int64]] = {}  # shared by all views
        self._names: dict[str, tuple[str, ...]] = {}
        self._counts: dict[str, int] = {}
        self._index()
        self._offer(self.found)

    # ------------------------------------------------------------------------------------- what there is

    def _index(self) -> None:
        samples = self._store.samples
        fields = self._sources.fields_of_all(samples)
        self._sources.resolve(samples, fields)
        self._have: dict[str, bytearray] = {}
        raw: dict[str, list[Any]] = {"class_label": [], "box_labels": []}
        for key in self._sources.by_key:
            have = bytearray(len(samples))
            for place, sample in enumerate(samples):
                value = self._sources.peek(key, sample, fields[place])
                have[place] = value is not NO_VALUE
                if key in raw and have[place]:
                    raw[key].append(value)
            if any(have):
                self._have[key] = have
        self._have["name"] = bytearray(b"\x01" * len(samples))
        self.found: dict[str, int] = {key: sum(have) for key, have in self._have.items()}
        if "image" not in self.found:
            seen = sorted({"." + extension for sample in samples for extension in sample.parts})
            raise DataError(
                f"{self._store.title}: no pictures; looked for {', '.join('.' + p for p in PICTURES)}, found "
                f"{', '.join(seen[:8]) if seen else 'nothing'}; check the URL or map one: read.image=EXT"
            )
        self._count_classes(raw)

    def _count_classes(self, raw: Mapping[str, list[Any]]) -> None:
        title = self._store.title
        main = next((k for k in ("segmentation", "box_labels", "class_label") if k in self.found), None)
        for key in ("class_label", "box_labels", "segmentation"):
            if key not in self.found:
                continue
            values = raw.get(key, [])
            names, count = read_names(self._store, key, self.config.classes.get(key), key == main)
            labels = [label for value in values for label in (value if isinstance(value, list) else [value])]
            # All text: these are names. Text among numbers is a mistake in those samples, found on reading.
            if not names and not count and labels and all(isinstance(label, str) for label in labels):
                names = tuple(sorted(set(labels)))
            if not count and not names:
                count = self._largest(key, labels) + 1
            self._names[key] = names
            self._counts[key] = count or len(names)
            top = max((label for label in labels if isinstance(label, int)), default=-1)
            if top >= self._counts[key] and self.config.classes.get(key):
                raise DataError(
                    f"{title}: '{key}' goes up to {top}, but classes.{key} says {self._counts[key]} classes"
                )
            if top >= self._counts[key]:  # the list beside the data is about another key
                self._names[key], self._counts[key] = (), top + 1

    def _largest(self, key: str, labels: Sequence[Any]) -> int:
        if key != "segmentation":
            return max((label for label in labels if isinstance(label, int)), default=0)
        largest, source = 0, self._sources.by_key[key][0]
        for sample in [s for s in self._store.samples if source.extension in s.parts][:_MAPS_LOOKED_AT]:
            try:
                data = bounded(self._store, sample, source.extension, MOST_PICTURE)
                labels_map = decode_labels(data, sample.name)
            except (DataError, ValueError):
                continue
            largest = max(largest, int(labels_map[labels_map != 255].max(initial=0)))
        return largest

    def _geometry(self, key: str) -> str:
        fixed = {
            "image": "image", "segmentation": "map", "mask": "map", "boxes": "boxes", "box_labels": "per_box"
        }  # fmt: skip
        if key in fixed:
            return fixed[key]
        if key in self.config.geometry:
            return self.config.geometry[key]
        sources = self._sources.by_key.get(key, ())
        return "image" if sources and sources[0].extension in PICTURES else "value"

    def _offer(self, keys: Iterable[str]) -> None:
        self.keys: Mapping[str, str] = {key: self._geometry(key) for key in keys}
        self.classes: Mapping[str, int] = {k: count for k, count in self._counts.items() if k in self.keys}
        self.class_names: Mapping[str, tuple[str, ...]] = {
            key: names for key, names in self._names.items() if names and key in self.keys
        }

    @property
    def widths(self) -> Mapping[str, int]:
        """Length of the vectors of `embedding`, as the first readable header of a file says."""
        sources = self._sources.by_key.get("embedding", ()) if "embedding" in self.keys else ()
        extension = next((s.extension for s in sources if s.extension.endswith("npy")), "")
        having = [s for s in self._store.samples if extension and extension in s.parts]
        for sample in having[:_HEADERS_LOOKED_AT]:
            with suppress(DataError):
                most = min(_HEADS[0], self._store.size(sample, extension))
                if shape := read_header(self._store.fetch(sample, extension, most), sample.name).shape:
                    return {"embedding": shape[-1]}
        return {}

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
        return {key: self._value(key, sample, fields) for key in self.keys}

    def _value(self, key: str, sample: Sample, fields: Mapping[str, Any]) -> Any:
        if key == "name":
            return sample.name
        source = next(s for s in self._sources.by_key[key] if s.has(sample, fields))
        kind = self.keys[key]
        try:
            if kind in ("image", "map"):
                data = bounded(self._store, sample, source.extension, MOST_PICTURE)
                if kind == "image":
                    if self._least:
                        return decode_picture(data, self._channels, sample.name, self._enough)
                    return decode_image(data, self._channels, sample.name)
                return self._in_range(key, decode_labels(data, sample.name))
            value = self._sources.read(source, sample, fields)
            if key == "caption":
                return text_of(value)
            if key == "class_label":
                return class_of(value, self._names[key], self._counts[key])
            if key == "boxes":
                return boxes_of(value, self.config, fields)
            if key == "box_labels":
                return box_labels_of(value, self._names[key], self._counts[key], fields.get("boxes"))
            if key == "embedding":
                return vectors_of(value)
            return np.asarray(value) if kind in ("boxes", "per_box") else value
        except BadExample:
            raise
        except (DataError, ValueError, TypeError, KeyError, RecursionError) as error:
            why = str(error).removeprefix(f"{sample.name}: ")
            raise BadExample(sample.name, f"{key}: {why}" if key != "image" else why) from error

    def _in_range(self, key: str, labels: Any) -> Any:
        top = int(labels[labels != 255].max(initial=0))
        if key in self._counts and top >= self._counts[key]:
            raise ValueError(f"holds class {top}, the highest is {self._counts[key] - 1}")
        return labels

    def select(self, keys: Iterable[str]) -> RecordDataset:
        """A view whose examples decode and hold only `keys`; DataError where samples lack one of them."""
        wanted = tuple(dict.fromkeys(keys))
        unknown = [key for key in wanted if key not in self._have]
        if unknown:
            raise DataError(
                f"{self._store.title}: has no '{unknown[0]}'; found {', '.join(self.found)}; map another "
                f"extension or field with read: {{{unknown[0]}: NAME}}"
            )
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        keep = [place for place in self._order if all(self._have[key][place] for key in wanted)]
        if len(keep) < len(self._order) and self.config.missing == "error":
            raise DataError(self._lack(wanted))
        view.skipped = self.skipped + len(self._order) - len(keep)
        view._order = keep
        view._selected = wanted
        view._offer(wanted)
        return view

    def reduced(self, sizes: Sequence[tuple[int, int]], fit: Literal["crop", "pad"], smallest: float) -> RecordDataset:
        """A view for :func:`ldm_core.geometry.fit`: pictures are PIL images, which saves two copies, and may be decoded
        smaller than they are, as they become one of `sizes` anyway.

        `smallest`: the side of the smallest random cut, as a share. Twice the pixels that are needed stay on each
        side, for the resizing that follows. Nothing changes where several pictures or maps must keep one shape.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        alone = [kind for kind in self.keys.values() if kind in ("image", "map")] == ["image"]
        view._least = (tuple(sizes), fit, smallest) if alone else None
        return view

    def _enough(self, height: int, width: int) -> tuple[int, int]:
        assert self._least is not None
        sizes, rule, smallest = self._least
        steps = [plan((height, width), size, rule, Cut(smallest)).resized for size in sizes]
        return 2 * max(s[0] for s in steps), 2 * max(s[1] for s in steps)

    def image_sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of each picture as its file's header says; zeros where it cannot be told."""
        if "sizes" not in self._native:
            key = ("picture sizes 1", self._store.digest(), sorted(self.config.read.items()))
            known = None if self._cache is None else self._cache.recall(*key)
            if known is None:
                found = np.array([self._header(s) for s in self._store.samples], dtype=np.int64).reshape(-1, 2)
                if self._cache is not None:
                    self._cache.remember(found.tobytes(), *key)
            self._native["sizes"] = found if known is None else np.frombuffer(known, dtype=np.int64).reshape(-1, 2)
        return self._native["sizes"][list(self._order)]

    def _header(self, sample: Sample) -> tuple[int, int]:
        source = next((s for s in self._sources.by_key["image"] if s.extension in sample.parts), None)
        if source is None:
            return 0, 0
        whole = self._store.size(sample, source.extension)
        for most in (*_HEADS, MOST_PICTURE):
            size = picture_size(self._store.fetch(sample, source.extension, min(most, whole)))
            if size is not None:
                return size
            if most >= whole:
                break
        return 0, 0

    def describe(self) -> str:
        """One line that says where the data lies, how many samples there are and which keys were found."""
        total = len(self._store.samples)
        each = ", ".join(key if n == total else f"{key} ({n} of {total})" for key, n in self.found.items())
        return f"{self._store.title}: {total} samples with {each}"

    def _lack(self, keys: Sequence[str]) -> str:
        key = next(key for key in keys if any(not self._have[key][place] for place in self._order))
        without = [self._store.samples[place].name for place in self._order if not self._have[key][place]]
        few = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
        return (
            f"{self._store.title}: {len(without)} of {len(self._order)} samples have no '{key}' ({few}); "
            "add them, or leave those samples out with dataset.missing=skip"
        )

    def fingerprint(self) -> str:
        """Hash of what is read and how: names, sizes and etags, not the place; equal for a copy elsewhere."""
        settings = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in attrs.asdict(self.config, recurse=False).items()
            if name not in ("url", "max_bad", "keep_bytes")
        }
        state = [settings, self._store.digest(), self._channels, self._selected]
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
