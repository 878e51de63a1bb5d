"""Progressive distillation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import Cond, DiffusionModel, LossContext, LossOutput, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import Model, per_example
from ldm_plugin_distill.config import ProgressiveConfig
from ldm_plugin_distill.distillation import Distillation, Guided, noised
from ldm_plugin_distill.kept import copied, estimator, pairs
from ldm_plugin_distill.levels import time_of
from ldm_plugin_distill.teacher import down


class Progressive(Distillation):
    """Salimans and Ho 2022 (arXiv 2202.00512), algorithm 2, under any schedule and parameterization.

    One step of the student's DDIM is to end where two of its teacher's end, so x0 is to be (x_s - r x_t) / (alpha_s -
    r alpha_t), r = sigma_s / sigma_t. The squared error of x0 is weighed by max(alpha² / sigma², 1). The training is
    divided evenly into halvings; at the end of each the student's average becomes the teacher (`former`). `halved`
    counts them.
    """

    halved: Tensor

    def __init__(self, config: ProgressiveConfig, site: Site) -> None:
        super().__init__(config, site, config.decay)
        self.config = config
        self.former: nn.Module | None = None
        self.register_buffer("halved", torch.zeros(1, dtype=torch.int64))
        self._steps = 0  # of the training; known from the first loss on

    def prepare(self, model: DiffusionModel) -> None:
        """Load the teacher, and copy the student's network for those after it."""
        super().prepare(model)
        if self.config.halvings > 1:
            self.former = copied(cast(Model, model))

    def loss(
        self, model: DiffusionModel, x0: Tensor, cond: Cond, *, streams: Streams, context: LossContext | None = None
    ) -> LossOutput:
        """x0 (B, C, *s) -> the loss of each example (B,), float32."""
        assert context is not None, "the config asks for it"
        self._steps = context.steps
        x0, schedule, halved = x0.float(), model.schedule, self._done()
        pairs = self.config.begin >> (halved + 1)
        number = 2 * (streams.uniform((len(x0),)).to(x0.device).double() * pairs).floor() + 2
        t, middle, s = (time_of(schedule, number - i, 2 * pairs) for i in range(3))
        x = noised(schedule, x0, t, streams)
        with torch.no_grad():
            cond, teacher = self._asked(cast(Model, model), cond, streams, context, halved)
            half = down(schedule, x, teacher(x, t), t, middle)
            below = down(schedule, half, teacher(half, middle), middle, s)
            keep = schedule.sigma(s) / schedule.sigma(t)
            gain = 1 / (schedule.alpha(s) - keep * schedule.alpha(t))
            aim = per_example(gain, x) * (below - per_example(keep, x) * x)
            weight = (schedule.alpha(t) / schedule.sigma(t)).square().clamp(min=1).to(x)
        error = (model(x, t, cond).x0 - aim).square().flatten(1).mean(1)
        return LossOutput(weight * error, {"halved": torch.tensor(float(halved))})

    def _asked(
        self, model: Model, cond: Cond, streams: Streams, context: LossContext, halved: int
    ) -> tuple[Cond, Guided]:
        """The student's bundle and the teacher of a halving: the trained model, and the student before, after that."""
        cond, guided = self.guided(model, cond, streams, context)
        if not halved or self.former is None:
            return cond, guided
        former = estimator(model, self.former)
        return cond, lambda x, t: former(x, t, cond).x0

    def after_step(self, model: DiffusionModel, step: int) -> None:
        """Move the average towards the student; at the end of a halving it becomes the teacher."""
        super().after_step(model, step)
        halvings, halved = self.config.halvings, self._done()
        if self.former is None or not self._steps or halvings * (step + 1) < self._steps * (halved + 1):
            return
        if halved + 1 < halvings:
            news = [new for _, new in pairs(self.former, model)] if self.target is None else self.target.parameters()
            for old, new in zip(self.former.parameters(), news, strict=True):
                old.copy_(new)
            self.halved += 1

    def _done(self) -> int:
        return min(int(self.halved), self.config.halvings - 1)
