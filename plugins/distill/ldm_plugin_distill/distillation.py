"""The common part of the objectives: teacher, drawn scales, the average of the student."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import (
    AdapterConfig,
    Cond,
    DenoiserConfig,
    DiffusionModel,
    LossContext,
    NoiseSchedule,
    Objective,
    PartAnswers,
    Site,
    configs,
)
from ldm_core.contracts.streams import Streams
from ldm_core.model.diffusion import Model, per_example
from ldm_plugin_distill.config import SCALE, DistillationConfig
from ldm_plugin_distill.kept import Estimator, copied, estimator, pairs
from ldm_plugin_distill.teacher import Teacher

Guided: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""x (B, C, *s), t (B,) -> the teacher's guided x0."""


class Distillation(Objective, nn.Module):
    """`target` is an average of the student's network, in the state of the objective and so in the checkpoints; it
    moves towards the student by 1 - `decay` after each step. With `decay` 0 there is none, and the student stands in
    its place."""

    def __init__(self, config: DistillationConfig, site: Site, decay: float = 0.0) -> None:
        super().__init__()
        self._site = site
        self._decay, self._scales = decay, config.scales
        self._named = config
        self._teacher: list[Teacher] = []  # in a list: no part of the state
        self.target: nn.Module | None = None

    def prepare(self, model: DiffusionModel) -> None:
        """Load the teacher, and copy the student's network."""
        model = cast(Model, model)
        self._teacher = [Teacher.of(self._named, self._site, model)]
        self.target = copied(model) if self._decay else None

    def train(self, mode: bool = True) -> Distillation:
        """As a module's; the copies stay in eval mode."""
        super().train(mode)
        for network in self.children():
            network.eval()
        return self

    def after_step(self, model: DiffusionModel, step: int) -> None:
        """Move the target towards the student."""
        if self.target is not None:
            for old, new in pairs(self.target, model):
                old.lerp_(new.to(old), 1 - self._decay)

    def targets(self, model: Model) -> Estimator:
        """The estimates of the target."""
        return model if self.target is None else estimator(model, self.target)

    def guided(
        self, model: DiffusionModel, cond: Cond, streams: Streams, context: LossContext | None
    ) -> tuple[Cond, Guided]:
        """The student's bundle, and the teacher's estimate under the conditions of this batch, by scales drawn from the
        streams; a student that reads the scale finds it in its bundle."""
        assert context is not None, "the config asks for it"
        low, high = self._scales
        share = streams.uniform((len(streams),)) if high > low else torch.zeros(len(streams))
        scale = (low + (high - low) * share).double()
        bundles = cache(lambda: self._teacher[0].conditions(cond, context, streams.seeds))
        told = None if (low, high) == (1.0, 1.0) else scale
        said = {SCALE: scale.float().to(model.device)} if _reads_scale(cast(Model, model)) else {}
        student = cond._replace(extras={**cond.extras, **said})
        return student, lambda x, t: self._teacher[0].x0(x, t, bundles(), told)


def _reads_scale(model: Model) -> bool:
    """True if the network or an adapter takes the guidance scale as an extra."""
    found = [configs.of(DenoiserConfig, configs.of(PartAnswers, model.denoiser).config).accepts]
    for adapter in model.attached.values():
        accepts = configs.of(AdapterConfig, configs.of(PartAnswers, adapter).config).accepts
        found += [] if accepts is None else [accepts]
    return any(SCALE in accepts.extras for accepts in found)


def noised(schedule: NoiseSchedule, x0: Tensor, t: Tensor, streams: Streams) -> Tensor:
    """x0 (B, C, *s) at times t (B,), with noise of the streams."""
    noise = streams.normal(x0.shape).to(x0)
    return per_example(schedule.alpha(t), x0) * x0 + per_example(schedule.sigma(t), x0) * noise
