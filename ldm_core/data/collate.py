"""Examples to batches: what conditioners and trainers are handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def to_images(arrays: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    """uint8 (B, c, H, W) -> float32 in [-1, 1]."""
    return _as_floats(torch.from_numpy(np.asarray(arrays)))


def _as_floats(images: torch.Tensor) -> torch.Tensor:
    return images.float().div_(127.5).sub_(1.0)


def _holds_images(key: str, keys: Mapping[str, str] | None) -> bool:
    return (keys or {}).get(key, "image" if key == "image" else "") == "image"


def floats(batch: Mapping[str, Any], keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A `raw` batch -> the result of :func:`collate`, on the device of its tensors."""
    return {k: _as_floats(v) if _holds_images(k, keys) else v for k, v in batch.items()}


def collate(
    examples: Sequence[Mapping[str, Any]], keys: Mapping[str, str] | None = None, *, raw: bool = False
) -> dict[str, Any]:
    """Examples -> a batch: images become floats in [-1, 1]; equal-shaped arrays are stacked, all else is a list.

    `keys` says the geometry; a key of geometry ``image``, or named ``image``, holds images. `raw` leaves them uint8,
    for :func:`floats` to finish.
    """
    out: dict[str, Any] = {}
    for key in examples[0]:
        values = [e[key] for e in examples]
        if _holds_images(key, keys):
            stacked = np.stack(values)
            out[key] = torch.from_numpy(stacked) if raw else to_images(stacked)
        elif isinstance(values[0], torch.Tensor):
            out[key] = torch.stack(values)
        elif isinstance(values[0], int | float | np.integer | np.floating) and not isinstance(values[0], bool):
            out[key] = torch.as_tensor(values)
        elif isinstance(values[0], np.ndarray) and all(v.shape == values[0].shape for v in values):
            out[key] = torch.from_numpy(np.stack(values))
        else:
            out[key] = values
    return out


def to_device(batch: Mapping[str, Any], device: torch.device, *, non_blocking: bool = False) -> dict[str, Any]:
    """Move a batch's tensors; `non_blocking`: without waiting for it, where they are pinned."""
    return {k: v.to(device, non_blocking=non_blocking) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
