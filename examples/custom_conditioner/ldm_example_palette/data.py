"""The data set `shapes_palette`: the core's `shapes`, each picture with the colours that it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ldm_core.builtin.shapes.config import ShapesConfig
from ldm_core.builtin.shapes.dataset import ShapesDataset
from ldm_core.contracts import Dataset, Site


class ShapesPalette(Dataset):
    """Every key of `shapes`, and `palette`, uint8 (K, 3): the mean colour of the background and of each class shown."""

    def __init__(self, config: ShapesConfig, site: Site, *, keys: Iterable[str] | None = None) -> None:
        self._given = (config, Site(size=site.size, channels=site.channels))
        self._shapes = ShapesDataset(config, site)
        offered = {**self._shapes.keys, "palette": "value"}
        self.keys: Mapping[str, str] = {k: v for k, v in offered.items() if keys is None or k in set(keys)}
        self.classes = {k: v for k, v in self._shapes.classes.items() if k in self.keys}
        self.class_names = {k: v for k, v in self._shapes.class_names.items() if k in self.keys}

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        example = dict(self._shapes[index])
        example["palette"] = palette_of(example["image"], example["segmentation"])
        return {key: example[key] for key in self.keys}

    def select(self, keys: Iterable[str]) -> ShapesPalette:
        """A view of these keys."""
        config, site = self._given
        return ShapesPalette(config, site, keys=keys)

    def fingerprint(self) -> str:
        """A hash of what is read: that of `shapes`, and a mark of our own."""
        return f"palette-1-{self._shapes.fingerprint()}"


def palette_of(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The mean colour of each region: image (3, H, W), label map (H, W) -> uint8 (K, 3), by rising label."""
    colours = [image[:, regions == label].mean(1) for label in np.unique(regions)]
    return np.stack(colours).round().astype(np.uint8)
