"""Guidances around a guidance: each is handed the estimate guided so far, in the place of the model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from ldm_core.contracts import Cond, Estimate, Guidance, NoiseSchedule, Predict
from ldm_core.model.conformance.breaches import Named, inside
from ldm_core.model.conformance.first_batch import hold_estimate

if TYPE_CHECKING:
    from ldm_core.contracts import Conditions


@attrs.frozen(eq=False)
class Guide:
    """A guidance and, where it is known, its name in messages."""

    guidance: Guidance
    named: Named | None = None

    def estimate(self, predict: Predict, x: Tensor, t: Tensor, given: tuple[Conditions, NoiseSchedule]) -> Estimate:
        """x (B, C, *s), t (B,) -> its estimate, held to the contract."""
        with inside(self.named, "guide"):
            found = self.guidance.guide(predict, x, t, *given)
        hold_estimate(self.named, "guide", found, x)
        return found


class Guides(Guidance):
    """Several guidances, the innermost first.

    To all but the innermost, ``predict`` answers the bundle ``conditions.cond`` by the guidance within, and others by
    the model. Nothing is kept on it.
    """

    def __init__(self, guides: Sequence[Guide]) -> None:
        self.guides = tuple(guides)

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the estimate of the outermost one."""
        given = conditions, schedule
        for guide in self.guides[:-1]:
            predict = _Within(guide, predict, given)
        return self.guides[-1].estimate(predict, x, t, given)


@attrs.frozen(eq=False)
class _Within:
    """`predict` with a guidance around its estimate under all conditions."""

    guide: Guide
    predict: Predict
    given: tuple[Conditions, NoiseSchedule]

    def __call__(self, x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Estimate]:
        full = self.given[0].cond
        others = [cond for cond in branches if cond is not full]
        found = iter(self.predict(x, t, others) if others else ())
        guided = [self.guide.estimate(self.predict, x, t, self.given)] if len(others) < len(branches) else []
        return [guided[0] if cond is full else next(found) for cond in branches]
