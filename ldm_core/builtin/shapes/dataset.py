"""The embedded ``shapes`` data: pictures made on the fly, with a caption, boxes, a label map and a class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import numpy as np

from ldm_core.builtin.shapes import drawing
from ldm_core.builtin.shapes.config import ShapesConfig
from ldm_core.builtin.shapes.scenes import (
    CLASS_NAMES,
    COLOURS,
    HELD_OUT_PAIRS,
    PLACES,
    PLAIN,
    SHAPES,
    TEXTURES,
    Scene,
    draw_scene,
    uniforms,
)
from ldm_core.builtin.shapes.vectors import WIDTH, embedding
from ldm_core.contracts import Site
from ldm_core.data.geometry import GEOMETRIES
from ldm_core.data.images import to_channels
from ldm_core.errors import DataError

_VERSION = 1  # part of the fingerprint; raise it when any pixel or word of any example changes

_CLASS_NAMES = {
    "class_label": CLASS_NAMES,
    "box_labels": CLASS_NAMES,
    "segmentation": ("background", *CLASS_NAMES),
}


class ShapesDataset:
    """Scenes of one to three coloured shapes at ``site.size`` (h, w).

    ``image`` uint8 (site.channels, h, w); ``caption``; ``boxes`` float32 (N, 4) tight x, y, w, h in [0, 1]
    and ``box_labels`` int64 (N,), in the caption's order; ``segmentation`` uint8 (h, w), 0 background,
    class + 1 elsewhere; ``mask`` uint8 (h, w), a box or a blob of 255 on 0, for inpainting;
    ``embedding`` float32 (768,), a vector that stands for the scene;
    ``class_label`` the class of the first object named; ``name``. A class is a colour
    and a shape together (32 of them, ``class_names``), so boxes with classes, or the label map, say all that
    is drawn.
    """

    def __init__(self, config: ShapesConfig, site: Site, *, keys: Iterable[str] | None = None) -> None:
        for line in config.check(site):
            raise DataError(line)
        self.config = config
        # Not the site itself: it may hold functions, and datasets travel to loader workers.
        self._size = (int(site.size[-2]), int(site.size[-1]))
        self._channels = site.channels
        wanted = set(GEOMETRIES) if keys is None else set(keys)
        if unknown := sorted(wanted - set(GEOMETRIES)):
            raise DataError(f"shapes: has no key '{unknown[0]}'; it has {', '.join(GEOMETRIES)}")
        self.keys: Mapping[str, str] = {key: kind for key, kind in GEOMETRIES.items() if key in wanted}
        names = {key: names for key, names in _CLASS_NAMES.items() if key in wanted}
        self.class_names: Mapping[str, tuple[str, ...]] = names
        self.classes: Mapping[str, int] = {key: len(each) for key, each in names.items()}
        self.widths: Mapping[str, int] = {"embedding": WIDTH} if "embedding" in wanted else {}

    def __len__(self) -> int:
        return self.config.scenes if self.config.split == "train" else self.config.val_scenes

    def scene(self, index: int) -> Scene:
        """The scene of example ``index``."""
        index = range(len(self))[index]
        config = self.config
        return draw_scene(
            uniforms(config.seed, config.split, index),
            pairs=config.allowed_pairs,
            backgrounds=config.backgrounds,
            shares=config.shares[: config.max_objects],
        )

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        index = range(len(self))[index]  # IndexError past the end, which ends plain iteration
        scene = self.scene(index)
        return {key: self._value(key, scene, index) for key in self.keys}

    def _value(self, key: str, scene: Scene, index: int) -> Any:
        if key == "image":
            return to_channels(drawing.draw_image(scene, self._size), self._channels)
        if key == "segmentation":
            return drawing.draw_segmentation(scene, self._size)
        if key == "mask":
            seed, split = self.config.seed, self.config.split
            return drawing.draw_mask(uniforms(seed, split, index, purpose=1), self._size)
        if key == "embedding":
            return embedding(scene)
        if key == "caption":
            return scene.caption
        if key == "boxes":
            return np.array([drawing.box(t, self._size) for t in scene.things], dtype=np.float32)
        if key == "box_labels":
            return np.array([thing.class_index for thing in scene.things], dtype=np.int64)
        if key == "class_label":
            return scene.things[0].class_index
        return f"{self.config.split}-{self.config.seed}-{index:06d}"

    def image_sizes(self) -> np.ndarray:
        """(N, 2) height and width of each picture: all are drawn at one size."""
        return np.tile(np.array(self._size, dtype=np.int64), (len(self), 1))

    def select(self, keys: Iterable[str]) -> ShapesDataset:
        """A view that makes only these keys."""
        site = Site(size=self._size, channels=self._channels)
        return ShapesDataset(self.config, site, keys=keys)

    def fingerprint(self) -> str:
        """Hash of everything that the examples depend on."""
        image = [*self._size, self._channels]
        state = {"shapes": _VERSION, "config": attrs.asdict(self.config), "image": image}
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


@attrs.frozen
class HeldOutPrompt:
    """A caption of a val scene with one object, and what a picture of it must show."""

    caption: str
    colour: str
    shape: str
    held_out_pair: bool
    """True if the pair never occurs in train (otherwise only the scene is new)."""
    index: int
    """The example's index in the val split with ``max_objects`` 1 (``held_out_scenes``)."""


def held_out_scenes(count: int, site: Site, config: ShapesConfig | None = None) -> ShapesDataset:
    """``count`` val scenes with one object each; ``config`` gives seed, backgrounds and pairs."""
    base = config or ShapesConfig()
    pairs = base.pairs if base.split == "val" else "auto"
    return ShapesDataset(attrs.evolve(base, split="val", max_objects=1, val_scenes=count, pairs=pairs), site)


def held_out_prompts(count: int, seed: int = 0, *, config: ShapesConfig | None = None) -> list[HeldOutPrompt]:
    """Captions of ``held_out_scenes(count, site, config)`` under ``seed``, with their true colour and shape.

    By default one pair in eight is one that train never shows (4 of 32).
    """
    dataset = held_out_scenes(count, Site(size=(32, 32)), attrs.evolve(config or ShapesConfig(), seed=seed))
    prompts = []
    for index in range(count):
        scene = dataset.scene(index)
        thing = scene.things[0]
        pair = (thing.colour, thing.shape)
        prompts.append(HeldOutPrompt(scene.caption, *pair, pair in HELD_OUT_PAIRS, index))
    return prompts


__all__ = [
    "CLASS_NAMES", "COLOURS", "HELD_OUT_PAIRS", "PLACES", "PLAIN", "SHAPES", "TEXTURES",
    "HeldOutPrompt", "ShapesDataset", "held_out_prompts", "held_out_scenes",
]  # fmt: skip
