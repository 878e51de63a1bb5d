"""Pictures and masks among the inputs of a run, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm_core.contracts import Batch
from ldm_core.data.inputs.masks import holes
from ldm_core.errors import DataError


def pictures_of(inputs: Batch, key: str, channels: int, size: Sequence[int]) -> Tensor:
    """The pictures (B, channels, H, W) of a run in [-1, 1]; DataError for those of other channels, size or type."""
    found, expected = inputs.get(key), (channels, *size)
    if not isinstance(found, Tensor) or not found.is_floating_point() or tuple(found.shape[1:]) != expected:
        seen = f"{tuple(found.shape[1:])} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"'{key}': expected pictures {expected} (channels, height, width), got {seen}")
    return found.float()


def holes_of(inputs: Batch, key: str, pictures: Tensor) -> Tensor:
    """The holes (B, 1, H, W), bool, of a run's masks, on the pictures' device; DataError for masks of another size, and
    for one without a hole or without a known pixel."""
    masks = inputs.get(key)
    if masks is None or len(masks) != len(pictures):
        raise DataError(f"'{key}': expected a mask a picture")
    rows = [hole_of(mask, key, tuple(pictures.shape[2:]), f" of image {i}") for i, mask in enumerate(masks)]
    return torch.from_numpy(np.stack(rows))[:, None].to(pictures.device)


def hole_of(mask: Any, key: str, size: tuple[int, ...], where: str = "") -> NDArray[np.bool_]:
    """One mask's holes (H, W). DataError as :func:`holes_of`."""
    value = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    value = value[0] if value.ndim == 3 and value.shape[0] == 1 else value
    if value.shape != size:
        raise DataError(f"'{key}'{where}: the mask is {value.shape} and its picture {size} (height, width)")
    found = holes(value)
    if not found.any():
        raise DataError(
            f"'{key}'{where}: the mask has no hole, so nothing is to be filled; "
            "a hole is white (128 and above), or 1 in a mask of 0 and 1"
        )
    if found.all():
        raise DataError(f"'{key}'{where}: the mask is one hole, so no pixel is known; sample without a mask")
    return found


def known_of(example: Mapping[str, Any], image: str, mask: str) -> tuple[Any, Any] | None:
    """An image's picture, uint8 (c, H, W), and its known pixels (H, W); None for pictures of another type."""
    picture = np.asarray(example[image])
    if picture.dtype != np.uint8 or picture.ndim != 3:
        return None
    return picture, ~hole_of(example[mask], mask, picture.shape[1:])
