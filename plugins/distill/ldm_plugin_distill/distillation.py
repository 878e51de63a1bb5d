"""The common part of both objectives: teacher, drawn scales, the average of the student."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import Cond, DiffusionModel, LossContext, NoiseSchedule, Objective, Site
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import Model, per_example
from ldm_plugin_distill.config import DistillationConfig
from ldm_plugin_distill.teacher import Teacher, around, copied


class Distillation(Objective, nn.Module):
    """`target` is an average of the student's network, in the state of the objective and so in the checkpoints; it
    moves towards the student by 1 - `decay` after each step. With `decay` 0 there is none, and the student stands in
    its place."""

    def __init__(self, config: DistillationConfig, site: Site) -> None:
        super().__init__()
        self._site = site
        self._decay, self._scales = config.decay, config.scales
        self._named = config
        self._teacher: list[Teacher] = []  # in a list: no part of the state
        self.target: nn.Module | None = None

    def prepare(self, model: DiffusionModel) -> None:
        """Load the teacher, and copy the student's network."""
        model = cast(Model, model)
        self._teacher = [Teacher.of(self._named, self._site, model)]
        if self._decay == 0:
            return
        if model.attached:
            raise ConfigError(
                f"objective.decay: {self._decay} averages the network, and the change of adapters "
                f"({', '.join(model.attached)}) is none of it; set objective.decay=0"
            )
        self.target = copied(model)

    def train(self, mode: bool = True) -> Distillation:
        """As a module's; the copies stay in eval mode."""
        super().train(mode)
        for network in self.children():
            network.eval()
        return self

    def after_step(self, model: DiffusionModel, step: int) -> None:
        """Move the target towards the student."""
        if self.target is not None:
            for old, new in zip(self.target.parameters(), model.denoiser.parameters(), strict=True):
                old.lerp_(new.to(old), 1 - self._decay)

    def targets(self, model: Model) -> Model:
        """The model of the target."""
        return model if self.target is None else around(model, self.target)

    def guided(self, cond: Cond, streams: Streams, context: LossContext | None) -> Callable[[Tensor, Tensor], Tensor]:
        """The teacher's estimate under the conditions of this batch, by scales drawn from the streams."""
        assert context is not None, "the config asks for it"
        low, high = self._scales
        scale = None
        if (low, high) != (1.0, 1.0):
            share = streams.uniform((len(streams),)) if high > low else torch.zeros(len(streams))
            scale = (low + (high - low) * share).double()
        bundles = self._teacher[0].conditions(cond, context, streams.seeds)
        return lambda x, t: self._teacher[0].x0(x, t, bundles, scale)


def noised(schedule: NoiseSchedule, x0: Tensor, t: Tensor, streams: Streams) -> Tensor:
    """x0 (B, C, *s) at times t (B,), with noise of the streams."""
    noise = streams.normal(x0.shape).to(x0)
    return per_example(schedule.alpha(t), x0) * x0 + per_example(schedule.sigma(t), x0) * noise
