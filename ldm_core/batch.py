"""Examples to batches: what conditioners and trainers are handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def to_images(arrays: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    """uint8 (B, c, H, W) -> float32 in [-1, 1]."""
    return torch.from_numpy(np.asarray(arrays)).float().div_(127.5).sub_(1.0)


def collate(examples: Sequence[Mapping[str, Any]], keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Examples -> a batch: images become floats in [-1, 1]; equal-shaped arrays are stacked, all else is a list.

    `keys` says the geometry; a key of geometry ``image``, or named ``image``, holds images.
    """
    out: dict[str, Any] = {}
    for key in examples[0]:
        values = [e[key] for e in examples]
        if (keys or {}).get(key, "image" if key == "image" else "") == "image":
            out[key] = to_images(np.stack(values))
        elif isinstance(values[0], torch.Tensor):
            out[key] = torch.stack(values)
        elif isinstance(values[0], int | float | np.integer | np.floating) and not isinstance(values[0], bool):
            out[key] = torch.as_tensor(values)
        elif isinstance(values[0], np.ndarray) and all(v.shape == values[0].shape for v in values):
            out[key] = torch.from_numpy(np.stack(values))
        else:
            out[key] = values
    return out


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch's tensors."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
