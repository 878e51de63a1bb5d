"""The ``idx`` data set: MNIST's files and those of its family."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core import storage
from ldm_core.contracts import Dataset, Site
from ldm_core.data.images import to_channels
from ldm_core.data.records.sources import names_of
from ldm_core.errors import DataError, NoSplit, clean
from ldm_plugin_idx.config import NAMED, IdxConfig
from ldm_plugin_idx.files import read_idx

_SPLITS = {"t10k": "test", "valid": "val", "validation": "val"}
_CLASSES = "classes.json"


@attrs.frozen
class _Files:
    """The files of a split: those of images and, if there are some, of labels."""

    images: str
    labels: str = ""


class IdxDataset(Dataset):
    """Pictures in an IDX file: `image` uint8 (site.channels, H, W), with the border of `multiple`, `name`, and
    `class_label` if there are labels.

    The border keeps every pixel as it is; ``data.fit=pad`` would enlarge them to fill the larger size, and pad with
    white. The pictures are read once and stay in memory; spawned worker processes read them themselves.
    """

    def __init__(self, config: IdxConfig, site: Site) -> None:
        self.config, self._channels = config, site.channels
        self._files = _find(config)
        self._pictures: NDArray[np.uint8] | None = read_idx(self._files.images, 3)
        self._count, *shape = self._pictures.shape
        self._shape = (shape[1], shape[0]) if config.transpose else (shape[0], shape[1])
        self._labels = read_idx(self._files.labels, 1) if self._files.labels else None
        if self._labels is not None and len(self._labels) != self._count:
            raise DataError(
                f"{storage.shown(self._files.labels)}: {len(self._labels):,} labels for {self._count:,} pictures; the "
                "two files are of different sets"
            )
        self.keys: Mapping[str, str] = {"image": "image", "name": "value"}
        self.classes: Mapping[str, int] = {}
        self.class_names: Mapping[str, tuple[str, ...]] = {}
        if self._labels is not None:
            self.keys = {**self.keys, "class_label": "value"}
            self._name_classes()
        state: list[Any] = [attrs.asdict(config, filter=lambda a, _: a.name != "url"), self._channels, self.class_names]
        found = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
        for part in (self._pictures, self._labels):
            found.update(b"" if part is None else part)  # type: ignore[arg-type]
        self._hash = found.hexdigest()

    def _name_classes(self) -> None:
        assert self._labels is not None
        count, url = int(self._labels.max()) + 1, storage.join(storage.parent(self._files.images), _CLASSES)
        names = names_of(storage.read_bytes(url), storage.shown(url)) if storage.exists(url) else ()
        if names and count > len(names):
            raise DataError(f"{storage.shown(url)}: names {len(names)} classes, and a label is {count - 1}")
        self.classes = {"class_label": len(names) or count}
        self.class_names = {"class_label": names} if names else {}

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures with their border."""
        step = self.config.multiple
        height, width = (-(-side // step) * step for side in self._shape)
        return height, width

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        index = range(len(self))[index]
        return {key: self._value(key, index) for key in self.keys}

    def _value(self, key: str, index: int) -> Any:
        if key == "name":
            return f"{self.config.split}-{index:06d}"
        if key == "class_label":
            assert self._labels is not None
            return int(self._labels[index])
        if self._pictures is None:
            self._pictures = read_idx(self._files.images, 3)
        stored = self._pictures[index].T if self.config.transpose else self._pictures[index]
        out = np.full((1, *self.size), self.config.border, dtype=np.uint8)
        top, left = ((whole - own) // 2 for whole, own in zip(self.size, self._shape, strict=True))
        out[0, top : top + self._shape[0], left : left + self._shape[1]] = stored
        return to_channels(out, self._channels)

    def select(self, keys: Iterable[str]) -> IdxDataset:
        """A view of examples with only `keys`; DataError for an unknown one."""
        wanted = tuple(dict.fromkeys(keys))
        if lacking := [key for key in wanted if key not in self.keys]:
            raise DataError(
                f"{storage.shown(self.config.url)}: IDX files have no '{clean(lacking[0], 60)}' (these have: "
                f"{', '.join(self.keys)})"
            )
        view = copy(self)
        view.keys = {key: self.keys[key] for key in wanted}
        view.classes = {key: count for key, count in self.classes.items() if key in wanted}
        view.class_names = {key: names for key, names in self.class_names.items() if key in wanted}
        return view

    def counted(self, classes: Mapping[str, int]) -> IdxDataset:
        """A view with the model's number of classes, unless they have names."""
        view = copy(self)
        view.classes = {k: n if k in self.class_names else classes.get(k, n) for k, n in self.classes.items()}
        return view

    def labels(self, key: str) -> NDArray[np.int64]:
        """(N,) the class of each example."""
        if key != "class_label" or self._labels is None:
            raise DataError(f"{storage.shown(self.config.url)}: has no class '{clean(key, 60)}'")
        return self._labels.astype(np.int64)

    def image_sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of each picture."""
        return np.tile(np.array(self.size, dtype=np.int64), (len(self), 1))

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) of one of them."""
        return self.size

    def describe(self) -> str:
        """One line: the place, the pictures and their border, the classes."""
        stored, shown = (f"{w}x{h}" for h, w in (self._shape, self.size))
        border = f", with a border {shown}" if stored != shown else ""
        classes = "".join(f", {n} classes" for n in self.classes.values())
        return f"{storage.shown(self._files.images)}: {len(self):,} grey pictures of {stored}{border}{classes}"

    def fingerprint(self) -> str:
        """Hash of pictures, labels, names and settings; not of the place."""
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pictures": None}


def _find(config: IdxConfig) -> _Files:
    """The files of the split. NoSplit if there are those of others; DataError for none, and for several sets."""
    shown, roots = storage.shown(config.url), storage.expand(config.url)
    if len(roots) != 1:
        raise DataError(f"{shown}: expected one folder or file, found {len(roots)}")
    given = None if storage.is_folder(roots[0]) else NAMED.fullmatch(storage.base_name(roots[0]))
    folder = roots[0] if storage.is_folder(roots[0]) else storage.parent(roots[0])
    if folder != roots[0] and (given is None or not storage.exists(roots[0])):
        raise DataError(f"{shown}: is no folder and no file such as train-images-idx3-ubyte.gz; check dataset.url")
    found: dict[tuple[str, str, str], str] = {}
    for file in storage.list_files(folder):
        match = NAMED.fullmatch(storage.base_name(file.url))
        if match and not file.irregular and (given is None or match["set"] == given["set"]):
            split = _SPLITS.get(match["split"].lower(), match["split"].lower())
            found.setdefault((match["set"], split, match["what"].lower()), file.url)
    sets = sorted({name for name, _, what in found if what == "images"})
    if not sets:
        raise DataError(f"{shown}: no IDX files; looked for names such as train-images-idx3-ubyte.gz")
    if len(sets) > 1:
        raise DataError(f"{shown}: files of several sets ({', '.join(sets)}); give the file of images of one")
    wanted = {"train": ("train",), "val": ("val", "test")}.get(config.split, (config.split,))
    split = next((each for each in wanted if (sets[0], each, "images") in found), "")
    if not split:
        there = ", ".join(sorted({each for _, each, what in found if what == "images"}))
        raise NoSplit(f"{shown}: no split '{clean(config.split, 60)}'; there are files of {there}")
    return _Files(found[sets[0], split, "images"], found.get((sets[0], split, "labels"), ""))
