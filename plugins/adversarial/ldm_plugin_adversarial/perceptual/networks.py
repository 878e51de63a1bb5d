"""Shared parts of the distances: timm, by the door beside any torch, and unit vectors."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ldm_core.errors import LDMError, clean
from ldm_core.nn.torchvision_operators import importable


def imported_timm() -> ModuleType:
    """Import timm; LDMError where it cannot be imported."""
    try:
        with importable():
            import timm
    except ImportError as error:
        raise LDMError(
            f"perceptual distances need timm, which cannot be imported ({clean(error)}); install it and torchvision: "
            "pip install timm torchvision"
        ) from error
    module: ModuleType = timm
    return module


def unit(x: Tensor) -> Tensor:
    """Scale each position's channel vector of `x` (B, C, h, w) to length 1.

    vector_norm has gradient 0 at 0, but the square root of a sum gives NaN (a position with no active channel: common
    in flat images).
    """
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
