"""A representation of the clean picture, written by a conditioner and read by the objective alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_contract_plugin.optional.config import TARGET, AlignmentConfig, RepresentationConfig
from ldm_core import Conditioner
from ldm_core.contracts import (
    Batch,
    Cond,
    DiffusionModel,
    LatentSpec,
    LossContext,
    LossOutput,
    Objective,
    Site,
    draw_times,
)
from ldm_core.contracts.streams import Streams


class Representation(Conditioner, nn.Module):
    """Random features (B, width) of the picture's mean colours on a grid: fixed weights, as of a trained network."""

    features: Tensor

    def __init__(self, config: RepresentationConfig, site: Site) -> None:
        super().__init__()
        self.config, self.reads = config, config.reads
        self.spec = config.spec(site.latent or LatentSpec(4))
        generator = torch.Generator().manual_seed(1)
        count = site.channels * config.cells**2
        self.register_buffer("features", torch.randn(count, config.width, generator=generator) / count**0.5)

    def encode(self, batch: Batch) -> Cond:
        """Images (B, c, H, W) -> the extra (B, width)."""
        colours = F.adaptive_avg_pool2d(batch["image"].float(), self.config.cells)
        return Cond(extras={TARGET: torch.tanh(colours.flatten(1).float() @ self.features)})

    def null(self, like: Cond) -> Cond:
        """`like` itself: it is no condition of the model."""
        return like


class Alignment(Objective, nn.Module):
    """The squared error of x0, and 1 - cosine of a projection of the estimate to the picture's representation.

    The projection is the objective's own: it is trained, and not in the model's file.
    """

    def __init__(self, config: AlignmentConfig, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.config = config
        self.project = nn.Linear(site.latent.channels * 16, config.width)

    def loss(
        self, model: DiffusionModel, x0: Tensor, cond: Cond, *, streams: Streams, context: LossContext | None = None
    ) -> LossOutput:
        """x0 (B, C, h, w) -> the loss of each example (B,), float32."""
        assert context is not None, "the config asks for it"
        x0 = x0.float()
        t = draw_times(model.schedule, streams.uniform((len(x0),)).to(x0.device), x0.shape[1:])
        noise = streams.normal(x0.shape).to(x0.device)
        alpha, sigma = (s.to(x0).view(-1, 1, 1, 1) for s in (model.schedule.alpha(t), model.schedule.sigma(t)))
        found = model(alpha * x0 + sigma * noise, t, cond).x0
        error = (found - x0).square().flatten(1).mean(1)
        here = self.project(F.adaptive_avg_pool2d(found, 4).flatten(1))
        apart = 1 - F.cosine_similarity(here, context.conditions.cond.extras[TARGET], dim=1)
        logs = {"loss_data": error.detach(), "loss_alignment": apart.detach()}
        return LossOutput(error + self.config.weight * apart, logs)
