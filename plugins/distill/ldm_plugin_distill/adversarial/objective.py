"""Adversarial diffusion distillation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ldm_core.contracts import Cond, DiffusionModel, LossContext, LossOutput, NoiseSchedule, Site
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import Model
from ldm_plugin_distill.adversarial.discriminator import Discriminator
from ldm_plugin_distill.adversarial.features import Features
from ldm_plugin_distill.config import AdversarialConfig
from ldm_plugin_distill.distillation import Distillation, Guided, noised
from ldm_plugin_distill.levels import time_of

_LEVELS = 1000
"""Levels of noise, even in time, for discriminator and teacher; the lowest is the first."""


class Adversarial(Distillation):
    """Sauer et al. 2023 (arXiv 2311.17042) with the discriminator of Sauer et al. 2024 (arXiv 2403.12015), under any
    schedule and parameterization.

    x_t is noised data at one of the `steps` levels of the student's sampler, and its estimate y of x0 is to be taken
    for data. Both are noised again, to a level of their own; heads on the teacher's features tell them apart, by the
    logistic loss, and the student's loss is softplus(-logits) of y. Beside it stand the distance of y from the
    teacher's guided x0 of y noised, weighed by alpha, and, with `data`, its distance from x0.
    """

    def __init__(self, config: AdversarialConfig, site: Site) -> None:
        super().__init__(config, site)
        self.config = config
        self.discriminator: Discriminator | None = None
        self._features: list[Features] = []  # in a list: no part of the state

    def prepare(self, model: DiffusionModel) -> None:
        """Load the teacher and make the heads on its features."""
        super().prepare(model)
        self._features = [self._teacher[0].features(self._site, self.config.layers)]
        self.discriminator = Discriminator(self._features[0].widths, self.config.width, self.config.rate)

    def train(self, mode: bool = True) -> Adversarial:
        """As a module's: the discriminator is no copy."""
        nn.Module.train(self, mode)
        return self

    def loss(
        self, model: DiffusionModel, x0: Tensor, cond: Cond, *, streams: Streams, context: LossContext | None = None
    ) -> LossOutput:
        """x0 (B, C, *s) -> the loss of each example (B,), float32: the student's and the discriminator's."""
        assert context is not None, "the config asks for it"
        config, schedule, x0 = self.config, model.schedule, x0.float()
        student, guided = self.guided(model, cond, streams, context)
        number = 1 + (streams.uniform((len(x0),)).to(x0.device).double() * config.steps).floor()
        t = time_of(schedule, number, config.steps)
        made = cast(Model, model)(noised(schedule, x0, t, streams), t, student).x0.float()
        conditions = self._teacher[0].conditions(cond, context, streams.seeds)[0]
        judge, opinion, logs = self._judged(schedule, x0, made, conditions, streams)
        off = (made - x0).abs().flatten(1).mean(1)
        total = judge + config.weight * opinion + config.data * off
        if config.distillation:
            far = self._distance(schedule, made, guided, streams)
            total, logs = total + config.distillation * far, {**logs, "distance": far}
        return LossOutput(total, {name: value.detach() for name, value in {**logs, "off_data": off}.items()})

    def _judged(
        self, schedule: NoiseSchedule, x0: Tensor, made: Tensor, conditions: Cond, streams: Streams
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The discriminator's loss, the student's, and the share of right logits, (B,) each."""
        assert self.discriminator is not None, "prepare made it"
        share = torch.sigmoid(streams.normal((len(x0),)).to(x0.device).double() + self.config.noise)
        s = _level(schedule, share)
        with torch.no_grad():
            real = self._features[0](noised(schedule, x0, s, streams), s, conditions)
        fake = self._features[0](noised(schedule, made, s, streams), s, conditions)
        known, told = self.discriminator(real), self.discriminator([each.detach() for each in fake])
        judge = softplus(-known).mean(1) + softplus(told).mean(1)
        right = ((known > 0).float().mean(1) + (told < 0).float().mean(1)) / 2
        return judge, softplus(-self.discriminator.opinion(fake)).mean(1), {"judged_right": right}

    @staticmethod
    def _distance(schedule: NoiseSchedule, made: Tensor, guided: Guided, streams: Streams) -> Tensor:
        """alpha |made - the teacher's estimate of it, noised|², a mean (B,)."""
        s = _level(schedule, streams.uniform((len(made),)).to(made.device).double())
        with torch.no_grad():
            aim = guided(noised(schedule, made, s, streams), s)
        return schedule.alpha(s).to(made) * (made - aim).square().flatten(1).mean(1)


def _level(schedule: NoiseSchedule, share: Tensor) -> Tensor:
    """The time (B,) of the level at `share` (B,) of [0, 1]; never data itself."""
    return time_of(schedule, (share * _LEVELS).ceil().clamp(1, _LEVELS), _LEVELS)
