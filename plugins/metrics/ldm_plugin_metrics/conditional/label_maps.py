"""Label maps of a segmenter beside those that were asked for."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldm_core import storage
from ldm_core.contracts import Metric, Pictures, Rows, Site
from ldm_core.data.images import decode_labels
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_metrics.conditional.config import LabelMapConfig, MapFidelityConfig


class MapFidelity(Metric):
    """The agreement of a segmenter's maps with those asked for; subclass it for a segmenter of your own.

    `label_map_iou` is the mean, over the classes in either map anywhere, of the pixels of the class in both over those
    in one or both, added up over all pictures; `label_map_accuracy` is the share of equal pixels. Pixels asked for as
    an `ignored` label are left out (Everingham et al. 2015, the segmentation measure of Pascal VOC).
    """

    name = "label_map_iou"
    source = ""
    least = 1

    def __init__(self, config: MapFidelityConfig, site: Site) -> None:
        super().__init__()
        if config.classes < 1:
            raise ConfigError("classes: the number of classes is missing")
        self.config = config
        ignored = f"ignored {list(config.ignored) or 'none'}"
        self.source = f"{self.source}, {config.classes} classes, {ignored}, key {config.map}"

    @abstractmethod
    def segment(self, pictures: Pictures) -> NDArray[Any]:
        """Pictures (B) -> the class of each pixel (B, H, W), whole numbers below `classes`."""
        ...

    def measure(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """Pixels of each class (B, classes): asked for, seen, and both at once."""
        config, seen = self.config, self.segment(pictures)
        given = pictures.examples[config.map]
        maps = [each.cpu().numpy() if isinstance(each, Tensor) else np.asarray(each) for each in given]
        rows: dict[str, list[NDArray[Any]]] = {"asked": [], "seen": [], "both": []}
        for asked, found in zip(maps, seen, strict=True):
            if asked.shape != found.shape:
                raise DataError(
                    f"{self.name}: a map of {asked.shape} was asked for, and the segmenter's is {found.shape}; give "
                    "maps of the pictures' size"
                )
            kept = ~np.isin(asked, config.ignored)
            a, b = asked[kept].astype(np.int64), found[kept].astype(np.int64)
            for values, what in ((a, "the map that was asked for"), (b, "the segmenter's map")):
                if values.size and not 0 <= values.min() <= values.max() < config.classes:
                    wrong = int(values.max() if values.max() >= config.classes else values.min())
                    raise DataError(
                        f"{self.name}: {what} has the class {wrong}, and there are {config.classes}; set `classes`, or "
                        "leave the label out with `ignored`"
                    )
            for name, values in (("asked", a), ("seen", b), ("both", a[a == b])):
                rows[name].append(np.bincount(values, minlength=config.classes))
        return {name: np.stack(each) for name, each in rows.items()}

    def sums(self, rows: Rows) -> dict[str, Any]:
        """The number of pictures, and the pixels of each class."""
        return {"count": np.array(len(rows["asked"])), **{k: np.asarray(v).sum(axis=0) for k, v in rows.items()}}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The mean over classes, and the accuracy."""
        if not int(own["count"]):
            raise DataError(f"{self.name} needs 1 picture, and here are 0; give some")
        asked, seen, both = (np.asarray(own[name], np.float64) for name in ("asked", "seen", "both"))
        union = asked + seen - both
        if not asked.sum():
            raise DataError(f"{self.name}: no pixel was asked for; every label is among the ignored ones")
        return {
            "label_map_iou": float((both[union > 0] / union[union > 0]).mean()),
            "label_map_accuracy": float(both.sum() / asked.sum()),
        }


class LabelMapIoU(MapFidelity):
    """:class:`MapFidelity` with maps of any segmenter in a folder: a PNG file of class numbers a picture, its name the
    picture's place in the set, with any zeros before it."""

    def __init__(self, config: LabelMapConfig, site: Site) -> None:
        super().__init__(config, site)
        self.where = storage.shown(config.maps)
        if not config.maps or not storage.is_folder(config.maps):
            raise ConfigError(f"maps: no folder {self.where or '(none given)'}; give that of a segmenter's label maps")
        self.files: dict[int, str] = {}
        stamps = []
        for file in storage.list_files(config.maps):
            name = PurePosixPath(storage.base_name(file.url))
            if name.suffix.lower() == ".png" and name.stem.isdecimal():
                if int(name.stem) in self.files:
                    raise ConfigError(f"maps: {self.where} holds two maps of picture {int(name.stem)}; keep one")
                self.files[int(name.stem)] = file.url
                stamps.append(f"{int(name.stem)} {hashlib.sha256(storage.read_bytes(file.url)).hexdigest()}")
        if not self.files:
            raise ConfigError(f"maps: {self.where} holds no PNG file named by a number, such as 00012.png")
        digest = hashlib.sha256("\n".join(sorted(stamps)).encode()).hexdigest()
        self.source = f"label maps {digest}{self.source}"

    def segment(self, pictures: Pictures) -> NDArray[Any]:
        """The maps of the files, by place."""
        if len(pictures.places) != len(pictures.images):
            raise DataError(f"{self.name} finds maps by the places of pictures, and these have none; number them")
        if lacking := [int(place) for place in pictures.places if int(place) not in self.files]:
            raise DataError(f"{self.name}: {self.where} holds no map of picture {lacking[0]} ({lacking[0]:05d}.png)")
        urls = [self.files[int(place)] for place in pictures.places]
        maps = [decode_labels(storage.read_bytes(url), storage.shown(url)) for url in urls]
        if odd := [each.shape for each in maps if each.shape != tuple(pictures.images.shape[2:])]:
            raise DataError(
                f"{self.name}: a map in {self.where} is {odd[0]}, and the pictures are "
                f"{tuple(pictures.images.shape[2:])}; give maps of the pictures' size"
            )
        return np.stack(maps)
