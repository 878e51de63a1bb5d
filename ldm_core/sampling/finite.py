"""Finite results of a sampling run: rows with NaN or infinity become an error with their seeds, not black pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ldm_core.contracts.configs import GuidanceConfig, of
from ldm_core.contracts.values import Precision
from ldm_core.errors import NotFiniteError
from ldm_core.recipe.recipe import Recipe

_NAMED = 8


def finite_rows(values: Tensor) -> Tensor:
    """Tell the rows of `values` (B, ...) without NaN or infinity: bool (B,) on the CPU."""
    rows = values.detach().flatten(1)
    if bool(rows.sum().isfinite()):  # one pass; a sum that is finite has finite terms
        return torch.ones(len(rows), dtype=torch.bool)
    return rows.isfinite().all(1).cpu()


@contextmanager
def seeds_in_errors(
    seeds: Sequence[int], recipe: Recipe, precision: Precision, finished: Sequence[Any] = ()
) -> Iterator[None]:
    """Add the batch's seeds and advice to an error of a part whose rows are not finite."""
    try:
        yield
    except NotFiniteError as error:
        raise not_finite(seeds, "latents", recipe, precision, finished, str(error)) from error


def not_finite(
    seeds: Sequence[int],
    what: str,
    recipe: Recipe,
    precision: Precision,
    finished: Sequence[Any] = (),
    why: str = "",
) -> NotFiniteError:
    """Make the error of images with NaN or infinite `what` (``latents``, ``pictures``), with advice and the `finished`
    ones; `why` is the message of the part at fault."""
    shown = ", ".join(map(str, seeds[:_NAMED])) + (f" and {len(seeds) - _NAMED} more" if len(seeds) > _NAMED else "")
    advice = [f"try precision fp32 (it is {precision})"] if precision != "fp32" else []
    scale = of(GuidanceConfig, recipe.guidance.config).scale
    if scale is not None and abs(scale) > 1:
        advice.append(f"a lower guidance scale (it is {scale:g})")
    advice.append("weights that are sound (`weights.describe` names those that hold NaN)")
    return NotFiniteError(
        f"{'seed' if len(seeds) == 1 else 'seeds'} {shown}: the {what} came out not finite (NaN or infinite), and no "
        f"picture is made of them; what may help: {', or '.join(advice)}" + (f"\n{why}" if why else ""),
        seeds=seeds,
        images=finished,
    )
