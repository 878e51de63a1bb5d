"""Guidance within an interval of noise levels, for any guidance. Imports no torch by itself.

A level is sigma / alpha, the noise's standard deviation over that of the data's share, on any schedule; it is sigma of
a variance-exploding one. Latents deviate by about 1: divide levels for data of another deviation (0.5 in Karras et al.
2022) by that. Kynkaanniemi et al. 2024, arXiv 2404.07724, equation 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from ldm_core.contracts import NoiseSchedule

Interval: TypeAlias = "tuple[float, float | None] | None"
"""(low, high): guidance at low < sigma / alpha <= high; high None = no upper bound; None = everywhere."""


def interval_field() -> Any:
    """The field `interval` of a guidance's config; default None."""
    return attrs.field(
        default=None,
        validator=_lower_first,
        metadata={"help": "noise levels sigma / alpha, [low, high], between which it guides; null = no bound"},
    )


def _lower_first(instance: Any, attribute: attrs.Attribute, value: Interval) -> None:
    if value is not None and not 0 <= value[0] < (float("inf") if value[1] is None else value[1]):
        raise ValueError(
            f"{attribute.name}: expected two noise levels sigma / alpha, the lower one first, such as [0.3, 5] "
            f"or [0.3, null], got {list(value)}"
        )


def inside(interval: Interval, t: Tensor, schedule: NoiseSchedule) -> Tensor | None:
    """Tell the guided rows of times t (B,): bool (B,) on t's device; None = all of them."""
    if interval is None:
        return None
    low, high = interval
    level = schedule.sigma(t) / schedule.alpha(t)  # infinite where alpha is 0
    found = level > low
    if high is not None:
        found = found & (level <= high)
    return None if bool(found.all()) else found


def choose(rows: Tensor | None, guided: Tensor, plain: Tensor) -> Tensor:
    """Take `guided` (B, ...) in the rows (B,) that are True, else `plain`; None = everywhere."""
    import torch

    if rows is None:
        return guided
    return torch.where(rows.to(guided.device).view(-1, *[1] * (guided.dim() - 1)), guided, plain)
