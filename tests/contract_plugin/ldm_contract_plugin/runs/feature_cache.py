"""A cache: most steps take what a span of blocks made before, and compute those around it alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs

from ldm_contract_plugin.runs.config import FeatureCacheConfig
from ldm_core.contracts import (
    Adapter,
    Cond,
    DenoiserAnswers,
    DiffusionModel,
    SamplingRun,
    Site,
    configs,
    evaluation,
)
from ldm_core.nn.hooks import Surrounding, surround


@attrs.define
class _Kept:
    full: range
    made: dict[tuple[int, int], tuple[Cond, Any]] = attrs.field(factory=dict)


class FeatureCache(Adapter):
    """The blocks of a span that the denoiser declares run at every `interval`-th step of a run.

    In between, each gives what it made for the same bundle at the last of those steps. A call outside of a run computes
    all.
    """

    def __init__(self, config: FeatureCacheConfig, site: Site) -> None:
        self.config = config
        self._handles: list[Surrounding] = []

    def attach(self, model: DiffusionModel) -> None:
        """Stand around the blocks of the span; ValueError where the denoiser declares none."""
        self.detach()
        spans = configs.of(DenoiserAnswers, model.denoiser).reusable_spans
        if spans is None:
            raise ValueError(f"feature_cache: {type(model.denoiser).__name__} declares no spans that may be kept")
        inner = spans()[self.config.branch].blocks
        self._handles = [surround(block, partial(self._call, i)) for i, block in enumerate(inner)]

    def detach(self) -> None:
        """Leave the blocks alone."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin(self, run: SamplingRun) -> None:
        """Choose the steps at which all is computed."""
        run.state(self, lambda: _Kept(range(0, run.steps, self.config.interval)))

    def end(self, run: SamplingRun) -> None:
        """Let the features go."""
        self._of(run).made.clear()

    def _of(self, run: SamplingRun) -> _Kept:
        return run.state(self, lambda: _Kept(range(run.steps)))

    def _call(self, block: int, forward: Any, *args: Any) -> Any:
        now = evaluation()
        if now is None or now.run is None:
            return forward(*args)
        kept, key = self._of(now.run), (block, id(now.cond))
        if now.run.step in kept.full or key not in kept.made:
            kept.made[key] = now.cond, forward(*args)  # the bundle is held, so that its id stays its own
        return kept.made[key][1]
