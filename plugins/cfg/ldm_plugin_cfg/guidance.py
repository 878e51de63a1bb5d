"""Classifier-free guidance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ldm_core.contracts import Estimate, Guidance, NoiseSchedule, Predict, Site
from ldm_plugin_cfg.config import CFGConfig

if TYPE_CHECKING:
    from ldm_core.cond import Conditions


class ClassifierFreeGuidance(Guidance):
    """x0 = u + scale (c - u), u and c the estimates without and with all conditions.

    x0 is linear in the predicted noise (and in v, and in the flow) with one factor for both, so this is the
    published rule eps = eps_u + scale (eps_c - eps_u). Both branches go into one call of `predict`, the
    unconditional one first; scale 1 asks for the conditional one alone, scale 0 for the other. Channels
    beyond x0's are the conditional branch's (the only branch's).
    """

    def __init__(self, config: CFGConfig, site: Site | None = None) -> None:
        self.config = config

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the guided estimate."""
        scale = self.config.scale
        if scale == 1.0:
            return predict(x, t, [conditions.cond])[0]
        if scale == 0.0:
            return predict(x, t, [conditions.null])[0]
        null, cond = predict(x, t, [conditions.null, conditions.cond])
        return Estimate(null.x0 + scale * (cond.x0 - null.x0), cond.extra)
