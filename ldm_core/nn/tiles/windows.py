"""Overlapping windows over the axes of a map, and the smooth weights by which they are blended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import torch
from torch import Tensor


def starts(size: int, window: int, overlap: int, step: int = 1) -> list[int]:
    """The begins of windows along an axis: from 0, each sharing `overlap` cells or more with the one before it; fewer
    if they could not move by a `step` otherwise.

    The last one ends at `size`; all are multiples of `step`, where `size` and `window` are. A window as large as the
    axis begins at 0 alone. ValueError unless 0 <= `overlap` < `window`.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"windows of {window} cells cannot share {overlap}")
    if size <= window:
        return [0]
    count = math.ceil((size - overlap) / (window - overlap))
    even = [round(i * (size - window) / (count - 1) / step) * step for i in range(count)]
    if all(b - a <= window - overlap for a, b in pairwise(even)):
        return even
    stride = max((window - overlap) // step * step, step)  # rounding would tear them apart
    return [*range(0, size - window, stride), size - window]


Place = tuple[slice, slice]
"""The rows and the columns of a window."""


def places(sizes: Sequence[int], windows: Sequence[int], overlap: int, step: int = 1) -> Iterator[Place]:
    """The windows over rows and columns, row by row."""
    rows, columns = (
        [slice(start, min(start + window, size)) for start in starts(size, window, min(overlap, window - 1), step)]
        for size, window in zip(sizes, windows, strict=True)
    )
    return product(rows, columns)


def weights(windows: Sequence[int], overlap: int) -> Tensor:
    """The weights of a window (*windows), float32, above 0: 1 inside, falling as half a cosine over `overlap` cells to
    each side. Blended values are divided by the sum of the weights there, so that a border without neighbours counts
    in full."""
    out = torch.ones(())
    for window in windows:
        at = torch.arange(window, dtype=torch.float32)
        inside = torch.minimum(at, window - 1 - at) + 0.5
        share = (inside / max(overlap, 0.5)).clamp(max=1.0)
        out = out[..., None] * (0.5 - 0.5 * torch.cos(math.pi * share))
    return out
