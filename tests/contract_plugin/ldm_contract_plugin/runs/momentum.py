"""A guidance that remembers: the differences of earlier steps weigh in."""

from __future__ import annotations

import attrs
from torch import Tensor

from ldm_contract_plugin.runs.config import MomentumConfig
from ldm_core.contracts import Conditions, Estimate, Guidance, NoiseSchedule, Predict, SamplingRun, Site


@attrs.define
class _Averages:
    step: int = -1
    before: Tensor | None = None
    now: Tensor | None = None


class Momentum(Guidance):
    """x0 = cond + (scale - 1) d, where d = (cond - null) + momentum d of the step before; row by row.

    All evaluations of a step stand on the step before. Outside of a run there is none before.
    """

    def __init__(self, config: MomentumConfig, site: Site) -> None:
        self.config = config

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the guided estimate."""
        null, cond = predict(x, t, [conditions.null, conditions.cond])
        difference = self._averaged(cond.x0 - null.x0, conditions.run)
        return Estimate(cond.x0 + (self.config.scale - 1) * difference, cond.extra)

    def _averaged(self, difference: Tensor, run: SamplingRun | None) -> Tensor:
        if run is None:
            return difference
        kept = run.state(self, _Averages)
        if kept.step != run.step:
            kept.step, kept.before = run.step, kept.now
        kept.now = difference if kept.before is None else difference + self.config.momentum * kept.before
        return kept.now
