"""DeepCache: full steps at places chosen beforehand, and the deep blocks' output kept between them."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from torch import Tensor

from ldm_core.contracts import SamplingRun, Site
from ldm_plugin_feature_cache.config import DeepCacheConfig
from ldm_plugin_feature_cache.spans import Entry, SpanCache

_full_steps = lru_cache(64)(DeepCacheConfig.full_steps)


class DeepCache(SpanCache[Entry]):
    """The blocks of the span run at the full steps of a run, at each of their evaluations.

    At other steps the span's output is that of the last evaluation under the same bundle since the last full step; of a
    transformer's blocks, their addition then. Without one the blocks run.
    """

    entry = Entry
    name = "deep_cache"

    def __init__(self, config: DeepCacheConfig, site: Site | None = None) -> None:
        super().__init__(config.branch)
        self.config = config

    def oldest(self, run: SamplingRun) -> int:
        """The last full step up to this one."""
        full = _full_steps(self.config, run.steps)
        return full[bisect_right(full, run.step) - 1]

    def leaves_out(self, entry: Entry, run: SamplingRun, h: Tensor, usable: bool) -> bool:
        """True between full steps, if there are features."""
        if usable and run.step != self.oldest(run):
            return True
        entry.since = run.step
        return False
