"""No guidance: one evaluation, all conditions on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ldm_core.builtin.diffusion.config import NoGuidanceConfig
from ldm_core.contracts import Estimate, Guidance, NoiseSchedule, Predict, Site

if TYPE_CHECKING:
    from ldm_core.contracts.conditioning import Conditions


class NoGuidance(Guidance):
    """The conditional estimate as it is."""

    def __init__(self, config: NoGuidanceConfig | None = None, site: Site | None = None) -> None:
        pass

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the estimate under all conditions."""
        return predict(x, t, [conditions.cond])[0]
