"""The arithmetic of networks: a precision by autocast, whatever is around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from ldm_core.contracts.configs import allowed_precisions, precision_among
from ldm_core.contracts.values import Precision
from ldm_core.recipe.recipe import Recipe

AUTOCAST: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The networks' type at a precision other than ``fp32``."""


def arithmetic(device: str, precision: Precision) -> torch.autocast:
    """A context in which networks on `device` (a type, such as ``cuda``) run in `precision`."""
    return torch.autocast(device, dtype=AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def allowed_here(device: str, among: Sequence[Precision]) -> AbstractContextManager[object]:
    """A context of the arithmetic that is in force on `device`, or of float32 where it is not `among` those allowed."""
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return nullcontext()
    here: Precision = "fp16" if torch.get_autocast_dtype(device) == torch.float16 else "bf16"
    return nullcontext() if here in among else arithmetic(device, precision_among(among, here))


def allowed_by(recipe: Recipe) -> dict[str, tuple[Precision, ...]]:
    """The arithmetic that a recipe's networks allow, by ``first_stage``, ``denoiser``, ``conditioners.NAME`` and
    ``adapters.KEY``."""
    parts = {"first_stage": recipe.first_stage, "denoiser": recipe.denoiser}
    parts |= {f"adapters.{part.key}": part for part in recipe.adapters}
    parts |= {f"conditioners.{part.name}": part for part in recipe.conditioners}
    return {name: allowed_precisions(part.kind, part.config) for name, part in parts.items()}
