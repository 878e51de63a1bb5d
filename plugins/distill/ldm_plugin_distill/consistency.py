"""Latent consistency distillation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ldm_core.contracts import Cond, DiffusionModel, LossContext, LossOutput, NoiseSchedule, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import Model, per_example
from ldm_plugin_distill.config import ConsistencyConfig
from ldm_plugin_distill.distillation import Distillation, noised
from ldm_plugin_distill.kept import Estimator
from ldm_plugin_distill.levels import boundary, time_of
from ldm_plugin_distill.teacher import down


class Consistency(Distillation):
    """Luo et al. 2023 (arXiv 2310.04378), algorithm 1, under any schedule and parameterization.

    x_t is noised data at one of `levels` even levels, and x_s one step of DDIM further down, along the teacher's guided
    estimate. The loss is the distance of f(x_t, t) from the target's f(x_s, s), f = c_skip x + c_out x0; at data, s =
    0, the aim is x_s itself. A consistency function has loss 0: it is the end of the teacher's flow from every x of it.
    """

    def __init__(self, config: ConsistencyConfig, site: Site) -> None:
        super().__init__(config, site, config.decay)
        self.config = config

    def loss(
        self, model: DiffusionModel, x0: Tensor, cond: Cond, *, streams: Streams, context: LossContext | None = None
    ) -> LossOutput:
        """x0 (B, C, *s) -> the loss of each example (B,), float32."""
        x0, levels, schedule = x0.float(), self.config.levels, model.schedule
        number = (streams.uniform((len(x0),)).to(x0.device).double() * levels).floor() + 1
        t, s = time_of(schedule, number, levels), time_of(schedule, number - 1, levels)
        x = noised(schedule, x0, t, streams)
        with torch.no_grad():
            cond, guided = self.guided(model, cond, streams, context)
            below = down(schedule, x, guided(x, t), t, s)
            known = self._function(self.targets(cast(Model, model)), schedule, below, torch.where(s > 0, s, t), cond)
            aim = torch.where(per_example(s, x) > 0, known, below)
        found = self._function(cast(Model, model), schedule, x, t, cond)
        squared = (found - aim).square()
        if self.config.loss == "huber":  # sqrt(d² + c²) - c without its loss of digits
            squared = squared / ((squared + self.config.huber**2).sqrt() + self.config.huber)
        return LossOutput(squared.flatten(1).mean(1))

    def _function(self, model: Estimator, schedule: NoiseSchedule, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        skip, out = boundary(schedule, t, self.config.boundary)
        return per_example(skip, x) * x + per_example(out, x) * model(x, t, cond).x0
