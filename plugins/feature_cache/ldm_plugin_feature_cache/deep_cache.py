"""DeepCache: full steps at places chosen beforehand, and the deep blocks' output kept between them."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

import attrs
from torch import Tensor

from ldm_core.contracts import SamplingRun, Site, evaluation
from ldm_plugin_feature_cache.config import DeepCacheConfig
from ldm_plugin_feature_cache.spans import Entry, SpanCache

_full_steps = lru_cache(64)(DeepCacheConfig.full_steps)


@attrs.define(eq=False)
class Past(Entry):
    """An entry with the last full evaluations: their times (B,) and features, the newest last."""

    past: list[tuple[Tensor, Tensor]] = attrs.field(factory=list)


class DeepCache(SpanCache[Past]):
    """The blocks of the span run at the full steps of a run, at each of their evaluations.

    At other steps the span's output is that of the last evaluation under the same bundle since the last full step; of a
    transformer's blocks, their addition then. With an `order` it goes on along the polynomial in t through the last
    ones. Without a full evaluation since the last full step the blocks run.
    """

    entry = Past
    name = "deep_cache"

    def __init__(self, config: DeepCacheConfig, site: Site | None = None) -> None:
        super().__init__(config.branch)
        self.config = config

    def oldest(self, run: SamplingRun) -> int:
        """The last full step up to this one."""
        full = _full_steps(self.config, run.steps)
        return full[bisect_right(full, run.step) - 1]

    def leaves_out(self, entry: Past, run: SamplingRun, h: Tensor, usable: bool) -> bool:
        """True between full steps, if there are features."""
        if usable and run.step != self.oldest(run):
            self._go_on(entry)
            return True
        entry.since = run.step
        return False

    def computed(self, entry: Past, out: Tensor) -> Tensor:
        """The output as it was computed; its features are the newest."""
        value, now = self.difference(entry, out), evaluation()
        assert now is not None
        entry.value = value
        if self.config.order:
            entry.past = [each for each in entry.past if each[1].shape == value.shape and not each[0].equal(now.t)]
            entry.past = [*entry.past[-self.config.order :], (now.t, value)]
        return out

    def _go_on(self, entry: Past) -> None:
        """Put the features along their polynomial (Newton's form) to the time of this evaluation, row by row."""
        now = evaluation()
        if now is None or len(entry.past) < 2:
            return
        times = [time for time, _ in reversed(entry.past)]
        slopes = [value for _, value in reversed(entry.past)]
        total, factor = slopes[0], times[0].new_ones(len(times[0]))
        for degree in range(1, len(times)):
            slopes = [
                (slopes[i] - slopes[i + 1]) / _over(times[i] - times[i + degree], total)
                for i in range(len(times) - degree)
            ]
            factor = factor * (now.t - times[degree - 1])
            total = total + slopes[0] * _over(factor, total)
        entry.value = total


def _over(value: Tensor, like: Tensor) -> Tensor:
    """`value` (B,) as (B, 1, ...), in the type of `like`."""
    return value.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
