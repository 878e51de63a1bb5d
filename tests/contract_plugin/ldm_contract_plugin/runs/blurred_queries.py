"""A guidance and the adapter that makes its other branch: attention with queries that are blurred over the grid."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ldm_contract_plugin.runs.config import QUERY_BLUR, BlurGuidanceConfig, QueryBlurConfig
from ldm_core.contracts import (
    Adapter,
    Conditions,
    DiffusionModel,
    Estimate,
    Guidance,
    NoiseSchedule,
    Predict,
    Site,
    evaluation,
)


class BlurGuidance(Guidance):
    """x0 = blurred + scale (cond - blurred), both under all conditions."""

    def __init__(self, config: BlurGuidanceConfig, site: Site) -> None:
        self.config = config

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the guided estimate."""
        other = conditions.with_options(conditions.names, **{QUERY_BLUR: self.config.blur})
        cond, blurred = predict(x, t, [conditions.cond, other])
        return Estimate(blurred.x0 + self.config.scale * (cond.x0 - blurred.x0), cond.extra)


class QueryBlur(Adapter):
    """Blurs the queries (B, N, C) of every self-attention over their grid (h, w), where the branch asks for it."""

    def __init__(self, config: QueryBlurConfig, site: Site) -> None:
        self._handles: list[Any] = []

    def attach(self, model: DiffusionModel) -> None:
        """Hook the projections of queries; ValueError where there is none."""
        self.detach()
        for name, module in model.denoiser.named_modules():
            if name.endswith(".attn1.to_q"):
                self._handles.append(module.register_forward_hook(self._blurred))
        if not self._handles:
            raise ValueError(f"query_blur: {type(model.denoiser).__name__} has no self-attention with queries apart")

    def detach(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @staticmethod
    def _blurred(module: nn.Module, given: Any, queries: Tensor) -> Tensor | None:
        now = evaluation()
        deviation = 0.0 if now is None else now.cond.options.get(QUERY_BLUR, 0.0)
        if now is None or not deviation:
            return None
        if queries.shape[1] != math.prod(now.grid):
            raise ValueError(f"query_blur: {queries.shape[1]} queries on a grid of {now.grid}")
        tall, wide = (_weights(n, deviation, queries) for n in now.grid)
        return torch.einsum("ij,kl,bjlc->bikc", tall, wide, queries.unflatten(1, now.grid)).flatten(1, 2)


def _weights(length: int, deviation: float, like: Tensor) -> Tensor:
    """The share of position j in the blurred position i, (length, length)."""
    place = torch.arange(length, device=like.device, dtype=like.dtype)
    shares = (-0.5 * ((place[:, None] - place) / deviation).square()).exp()
    return shares / shares.sum(1, keepdim=True)
