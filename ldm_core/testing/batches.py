"""The standard examples and batches: example i is the same whatever batch it stands in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_core.contracts import SIZE_KEYS, Conditioner, DataInfo
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.testing.rules import Rule

CLASSES: Mapping[str, int] = {"class_label": 5, "box_labels": 3, "segmentation": 4}
"""Class counts of the standard examples."""

INFO = DataInfo(
    keys={
        "image": "image",
        "caption": "value",
        "class_label": "value",
        "boxes": "boxes",
        "box_labels": "per_box",
        "segmentation": "map",
        "name": "value",
        **dict.fromkeys(SIZE_KEYS, "value"),
    },
    classes=CLASSES,
    class_names={k: tuple(f"{k} {i}" for i in range(n)) for k, n in CLASSES.items()},
)
"""Keys, classes and names of the standard examples, as a data set declares them."""

_COLOURS = ("red", "green", "blue", "yellow", "white")
_SHAPES = ("circle", "square", "star", "ring")
_PLACES = ("", " on the left", " at the top", " in the middle of a dark room")


def example(index: int, size: Sequence[int], channels: int = 3) -> dict[str, Any]:
    """Example `index`: every standard key, as a data set gives it (image uint8 (c, H, W))."""
    draw = np.random.default_rng(mix_seed("example", index))
    height, width = size[-2], size[-1]
    boxes = 1 + index % 3
    corner = draw.uniform(0.0, 0.5, (boxes, 2))
    return {
        "image": draw.integers(0, 256, (channels, height, width), dtype=np.uint8),
        "caption": f"a {_COLOURS[index % 5]} {_SHAPES[index % 4]}{_PLACES[index % 4]}",
        "class_label": index % CLASSES["class_label"],
        "boxes": np.concatenate([corner, draw.uniform(0.1, 0.5, (boxes, 2))], 1).astype(np.float32),
        "box_labels": draw.integers(0, CLASSES["box_labels"], boxes),
        "segmentation": draw.integers(0, CLASSES["segmentation"], (height, width), dtype=np.int64),
        "name": f"example-{index}",
        **dict(zip(SIZE_KEYS, np.array([(height + 7 * index, width), (index % 3, 2), (height, width)]), strict=True)),
    }


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Examples -> a batch: images float in [-1, 1], equal-shaped arrays and whole numbers stacked, all else a list."""
    batch: dict[str, Any] = {}
    for key in examples[0]:
        values = [e[key] for e in examples]
        first = values[0]
        if isinstance(first, np.ndarray):
            if all(v.shape == first.shape for v in values):
                batch[key] = torch.from_numpy(np.stack(values))
            else:
                batch[key] = [torch.from_numpy(v.copy()) for v in values]
        elif isinstance(first, int | float) and not isinstance(first, bool):
            batch[key] = torch.tensor(values)
        else:
            batch[key] = values
    if isinstance(batch.get("image"), Tensor) and batch["image"].dtype == torch.uint8:
        batch["image"] = batch["image"].float() / 127.5 - 1.0
    return batch


def standard_batch(rows: Sequence[int], size: Sequence[int], channels: int = 3) -> dict[str, Any]:
    """The collated batch of the examples `rows` at image size (H, W). A missing key is a KeyError that says the fix."""
    return _Batch(collate([example(i, size, channels) for i in rows]))


_READS = Rule(
    Conditioner,
    "`reads` the batch keys that it touches",
    "declare each key that encode takes in reads; the suite of a key of its own extends batch(rows, size) by it",
)


class _Batch(dict[str, Any]):
    def __missing__(self, key: str) -> Any:
        error = KeyError(f"'{key}' is no key of the kit's batch ({', '.join(self)})")
        _READS.quote(error)
        raise error


def normal(rows: Sequence[int], shape: Sequence[int], tag: str = "") -> Tensor:
    """Standard normal (len(rows), *shape), float32; row i depends on rows[i] and `tag` alone."""
    return Streams([mix_seed(tag, i) for i in rows]).normal((len(rows), *shape))


def uniform(rows: Sequence[int], shape: Sequence[int], tag: str = "") -> Tensor:
    """Uniform in [0, 1) (len(rows), *shape), float32; row i depends on rows[i] and `tag` alone."""
    return Streams([mix_seed(tag, i) for i in rows]).uniform((len(rows), *shape))


def images(rows: Sequence[int], size: Sequence[int], channels: int = 3) -> Tensor:
    """Smooth pictures (len(rows), channels, H, W) in [-1, 1]: waves of three directions a channel."""
    height, width = size[-2], size[-1]
    y = torch.linspace(0, 1, height).view(1, 1, 1, height, 1)
    x = torch.linspace(0, 1, width).view(1, 1, 1, 1, width)
    waves = uniform(rows, (channels, 3, 3), "waves")[..., None, None]
    phase = 6.2832 * (3 * waves[:, :, :, 0] * y + 3 * waves[:, :, :, 1] * x + waves[:, :, :, 2])
    return torch.sin(phase).mean(2)


class RecordingBatch(Mapping[str, Any]):
    """A batch that keeps the keys of all look-ups in `touched`."""

    def __init__(self, batch: Mapping[str, Any]) -> None:
        self._batch = batch
        self.touched: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.touched.add(key)
        return self._batch[key]

    def __iter__(self) -> Any:
        return iter(self._batch)

    def __len__(self) -> int:
        return len(self._batch)
