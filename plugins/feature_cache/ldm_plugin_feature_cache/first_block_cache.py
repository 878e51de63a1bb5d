"""First-block cache: the first block runs, and its change tells whether the others have to."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ldm_core.contracts import SamplingRun, Site
from ldm_plugin_feature_cache.config import FirstBlockCacheConfig
from ldm_plugin_feature_cache.spans import Entry, SpanCache


@attrs.define(eq=False)
class Changes(Entry):
    """An entry with the first block's doings, row by row.

    `first`, its addition, to compare with; `total` (B,), the change so far; `skips` (B,), the calls in a row without
    the other blocks; `rows` (B,) bool, those reusing in this call.
    """

    first: Tensor = attrs.field(factory=lambda: torch.empty(0))
    total: Tensor = attrs.field(factory=lambda: torch.empty(0))
    skips: Tensor = attrs.field(factory=lambda: torch.empty(0))
    rows: Tensor = attrs.field(factory=lambda: torch.empty(0))


class FirstBlockCache(SpanCache[Changes]):
    """The blocks of the span behind its first run if the addition r of this one has changed.

    A row reuses its features while mean|r - r'| / mean|r'| is below the threshold, with r' of its last full call; or,
    accumulated, while the sum of it since its last full call is, with r' of the call before. Each row decides for
    itself, so no image depends on those beside it; the blocks run if one row needs them.
    """

    entry = Changes
    name = "first_block_cache"
    probes = 1

    def __init__(self, config: FirstBlockCacheConfig, site: Site | None = None) -> None:
        super().__init__(config.branch)
        self.config = config

    def oldest(self, run: SamplingRun) -> int:
        """The step before: a branch without an evaluation there begins anew."""
        return run.step - 1

    def leaves_out(self, entry: Changes, run: SamplingRun, h: Tensor, usable: bool) -> bool:
        """True if no row has changed by the threshold."""
        assert entry.enters is not None
        first = entry.enters.float()
        if first.shape == h.shape:
            first = first - h.float()
        entry.since = run.step
        if not usable:
            entry.first = first
            entry.total = first.new_zeros(len(h))
            entry.skips = torch.zeros_like(entry.total, dtype=torch.long)
            entry.rows = torch.zeros_like(entry.total, dtype=torch.bool)
            return False
        change = _mean(first - entry.first) / _mean(entry.first)
        total = entry.total + change if self.config.accumulate else change
        entry.rows = total < self.config.threshold
        if self.config.max_skips:
            entry.rows = entry.rows & (entry.skips < self.config.max_skips)
        entry.total = total.where(entry.rows, 0)
        entry.skips = (entry.skips + 1).where(entry.rows, 0)
        entry.first = first if self.config.accumulate else entry.first.where(_over(entry.rows, first), first)
        return bool(entry.rows.all())

    def computed(self, entry: Changes, out: Tensor) -> Tensor:
        """The output of changed rows, and that of the others by their features."""
        made = self.difference(entry, out)
        if entry.value is not None and bool(entry.rows.any()):
            rows = _over(entry.rows, out)
            out = self.reused(entry).where(rows, out)
            made = entry.value.where(rows, made)
        entry.value = made
        return out


def _mean(value: Tensor) -> Tensor:
    """The mean size of each row (B,)."""
    return value.abs().flatten(1).mean(1)


def _over(rows: Tensor, like: Tensor) -> Tensor:
    """`rows` (B,) as (B, 1, ...)."""
    return rows.view(-1, *[1] * (like.dim() - 1))
