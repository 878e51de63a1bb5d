"""The guidance scale as an input of the student's network, and the guidance that hands it over in sampling."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import (
    Adapter,
    Cond,
    Conditions,
    DiffusionModel,
    Estimate,
    Guidance,
    NoiseSchedule,
    Predict,
    Site,
    evaluation,
)
from ldm_plugin_distill.config import SCALE, EmbeddedConfig, ScaleInputConfig


def scale_embedding(scale: Tensor, width: int) -> Tensor:
    """Guidance scales (B,) -> (B, `width`) float32: sines, then cosines, of 1000 (scale - 1), as in published weights
    (Luo et al. 2023, arXiv 2310.04378, section 4.3): frequency i of width / 2 is 10000 ** (-i / (width / 2 - 1))."""
    half = width // 2
    index = torch.arange(half, dtype=torch.float32, device=scale.device)
    angles = 1000 * (scale.float()[:, None] - 1) * torch.exp(index * (-math.log(10000.0) / (half - 1)))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ScaleInput(Adapter, nn.Module):
    """Adds a linear map of the scale's embedding to that of the noise level, before the network's layers for it.

    The scale is the extra `guidance_scale` (B,) of the bundle, in a distillation one an example, or the option of that
    name, in sampling; 1 where there is neither. The map has no bias and begins at 0.
    """

    def __init__(self, config: ScaleInputConfig, site: Site | None = None) -> None:
        super().__init__()
        self.config = config
        self.maps = nn.ParameterDict()
        self._handles: list[Any] = []

    def attach(self, model: DiffusionModel) -> None:
        """Hook into the layers of the noise level's embedding; ValueError where the denoiser has none of that name."""
        self.detach()
        network, at = cast(nn.Module, model.denoiser), self.config.at
        place = dict(network.named_modules()).get(at)
        first = None if place is None else next((m for m in place.modules() if isinstance(m, nn.Linear)), None)
        if place is None or first is None:
            raise ValueError(
                f"scale_input: the denoiser has no linear layers at '{at}'; name those of its level by `at`"
            )
        if "weight" not in self.maps:
            weight = torch.zeros(first.in_features, self.config.width, device=first.weight.device)
            self.maps["weight"] = nn.Parameter(weight)
        if tuple(self.maps["weight"].shape) != (first.in_features, self.config.width):
            raise ValueError(f"scale_input: '{at}' takes {first.in_features} numbers, and the map was made for others")
        self._handles.append(place.register_forward_pre_hook(self._add))

    def detach(self) -> None:
        """Take the hook away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _add(self, place: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        level, *rest = given
        now = evaluation()
        scale = None if now is None else now.cond.extras.get(SCALE)
        if scale is None:
            said = 1.0 if now is None else cast(float, now.cond.options.get(SCALE, 1.0))
            scale = torch.full((len(level),), said, device=level.device)
        added = nn.functional.linear(scale_embedding(scale, self.config.width), self.maps["weight"])
        return (level + added.to(level), *rest)


class EmbeddedGuidance(Guidance):
    """One evaluation under all conditions, with the scale told to the network: for students of a range of scales."""

    def __init__(self, config: EmbeddedConfig, site: Site | None = None) -> None:
        self.config = config

    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        """x (B, C, *s), t (B,) -> the estimate under the scale."""
        cond: Cond = conditions.with_options(conditions.names, **{SCALE: float(self.config.scale)})
        return predict(x, t, [cond])[0]
