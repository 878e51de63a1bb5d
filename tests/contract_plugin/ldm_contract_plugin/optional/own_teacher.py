"""An objective with a teacher: a slow copy of the network, which guides itself with and without the conditions."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ldm_contract_plugin.optional.config import TeacherConfig
from ldm_core.contracts import Cond, DiffusionModel, LossContext, LossOutput, Objective, Site, draw_times
from ldm_core.contracts.streams import Streams


class OwnTeacher(Objective, nn.Module):
    """The mean of two squared errors of x0: from the data, and from the teacher's guided estimate.

    `teacher` is a copy of the denoiser as it is before training; after each step it moves towards the student by
    1 - `decay`. Its weights are frozen, so that no optimizer has them, and travel in the checkpoints. `steps` counts
    what the moving average has taken in.
    """

    steps: Tensor

    def __init__(self, config: TeacherConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.teacher: nn.Module | None = None
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

    def prepare(self, model: DiffusionModel) -> None:
        """Copy the network."""
        self.teacher = copy.deepcopy(model.denoiser).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> OwnTeacher:
        """As a module's; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def loss(
        self, model: DiffusionModel, x0: Tensor, cond: Cond, *, streams: Streams, context: LossContext | None = None
    ) -> LossOutput:
        """x0 (B, C, *s) -> the loss of each example (B,), float32."""
        assert context is not None, "the config asks for it"
        x0 = x0.float()
        t = draw_times(model.schedule, streams.uniform((len(x0),)).to(x0.device), x0.shape[1:])
        noise = streams.normal(x0.shape).to(x0.device)
        x = _times(model.schedule.alpha(t), x0) + _times(model.schedule.sigma(t), noise)
        found = model(x, t, cond).x0
        with torch.no_grad():
            guided = self._guided(model, x, t, context)
        weight = self.config.weight
        plain, distance = ((found - aim).square().flatten(1).mean(1) for aim in (x0, guided))
        logs = {"loss_data": plain.detach(), "loss_teacher": distance.detach()}
        return LossOutput((1 - weight) * plain + weight * distance, logs)

    def _guided(self, model: DiffusionModel, x: Tensor, t: Tensor, context: LossContext) -> Tensor:
        assert self.teacher is not None, "prepare() comes first"
        skip, out, scale_in = model.coefficients(t)
        level = model.schedule.noise_level(t.double()).float()
        estimates = []
        for cond in (context.conditions.null, context.conditions.cond):
            f = self.teacher(_times(scale_in, x), level, cond)[:, : x.shape[1]].float()
            estimates.append(_times(skip, x) + _times(out, f))
        null, full = estimates
        return null + self.config.scale * (full - null)

    def sampled(self) -> dict[str, Tensor]:
        """The teacher's weights as the denoiser's, where the config asks for them."""
        if not self.config.samples or self.teacher is None:
            return {}
        return {f"denoiser.{name}": value for name, value in self.teacher.state_dict().items()}

    def after_step(self, model: DiffusionModel, step: int) -> None:
        """Move the teacher towards the student."""
        assert self.teacher is not None, "prepare() comes first"
        for old, new in zip(self.teacher.parameters(), model.denoiser.parameters(), strict=True):
            old.lerp_(new.to(old), 1 - self.config.decay)
        self.steps += 1


def _times(factor: Tensor, x: Tensor) -> Tensor:
    """`factor` (B,) float64 times `x` (B, ...), in x's dtype."""
    return factor.to(x).view(-1, *[1] * (x.dim() - 1)) * x
