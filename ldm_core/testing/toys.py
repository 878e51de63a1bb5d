"""Small right components, to stand around the one under test: a schedule, parameterizations, a denoiser, a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.contracts import CondSpec, Denoiser, LatentSpec, NoiseSchedule, Parameterization, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.model.diffusion import Model
from ldm_core.testing.base import installed
from ldm_core.testing.gaussian import FlowSchedule, VESchedule


def _builtin(kind: str, name: str) -> Any:
    """One of the core's own parts at its defaults, by its name in the catalog."""
    component = installed().get(kind, name)[0].component
    return component.load()(component.config(), Site(size=(64, 64), latent=LATENT))


LATENT = LatentSpec(4, (8, 8))
"""The latents of the toys."""
SIZES = ((4, 4), (32, 48), (128, 128))
"""Heights and widths of latents, small to large, for parts that ask for the size."""


class CosineSchedule(NoiseSchedule):
    """Variance preserving and continuous: alpha = cos(pi t / 2), sigma = sin(pi t / 2), t in [0, 0.98]."""

    t_max = 0.98

    def alpha(self, t: Tensor) -> Tensor:
        """cos(pi t / 2), float64."""
        return torch.cos(t.double() * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """sin(pi t / 2), float64."""
        return torch.sin(t.double() * math.pi / 2)

    def noise_level(self, t: Tensor) -> Tensor:
        """1000 t."""
        return 1000 * t.float()

    def draw(self, u: Tensor) -> Tensor:
        """(0, 0.98]."""
        return self.t_max * (1 - u.double())


class FlowParameterization(Parameterization):
    """F = eps - x0, the velocity of rectified flow."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma) -> (1, -sigma) / (alpha + sigma), 1."""
        return 1 / (alpha + sigma), -sigma / (alpha + sigma), torch.ones_like(alpha)


class ToyDenoiser(Denoiser, nn.Module):
    """A convolution of x, moved by the noise level, the tokens' mean and the vector: each part matters."""

    def __init__(self, latent: LatentSpec = LATENT, cond: CondSpec | None = None) -> None:
        super().__init__()
        cond = cond or CondSpec()
        channels = latent.channels
        self.mix = nn.Conv2d(channels + cond.concat, channels, 3, padding=1)
        self.from_level = nn.Linear(1, channels)
        self.from_tokens = nn.Linear(cond.crossattn, channels) if cond.crossattn else None
        self.from_vector = nn.Linear(cond.vector, channels) if cond.vector else None

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (B, C, h, w) -> F (B, C, h, w)."""
        shift = self.from_level(noise_level[:, None].to(x.dtype) / 1000)
        if self.from_tokens is not None and cond.crossattn is not None:
            weight = torch.ones(cond.crossattn.shape[:2], dtype=x.dtype, device=x.device)
            if cond.crossattn_mask is not None:
                weight = cond.crossattn_mask.to(x.dtype)
            tokens = torch.tanh(self.from_tokens(cond.crossattn)) * weight[..., None]
            shift = shift + tokens.sum(1) / weight.sum(1, keepdim=True)
        if self.from_vector is not None and cond.vector is not None:
            shift = shift + self.from_vector(cond.vector)
        if cond.concat is not None:
            x = torch.cat([x, cond.concat], 1)
        return self.mix(x) + shift[..., None, None]


@cache
def schedules() -> Mapping[str, NoiseSchedule]:
    """A schedule of every sort: a VP table of 1000, a continuous VP, VE and rectified flow (alpha(t_max) = 0)."""
    return MappingProxyType(
        {
            "table": _builtin("schedule", "vp"),
            "cosine": CosineSchedule(),
            "ve": VESchedule(),
            "flow": FlowSchedule(),
        }
    )


@cache
def parameterizations() -> Mapping[str, Parameterization]:
    """eps, x0, v and flow."""
    return MappingProxyType(
        {
            "eps": _builtin("parameterization", "eps"),
            "x0": _builtin("parameterization", "x0"),
            "v": _builtin("parameterization", "v"),
            "flow": FlowParameterization(),
        }
    )


def toy_model(
    latent: LatentSpec = LATENT,
    cond: CondSpec | None = None,
    *,
    schedule: str = "table",
    parameterization: str = "eps",
    denoiser: Denoiser | None = None,
) -> Model:
    """The core's model around a toy denoiser (or `denoiser`), its weights the same each time."""
    if denoiser is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            denoiser = ToyDenoiser(latent, cond)
    return Model(denoiser, schedules()[schedule], parameterizations()[parameterization]).eval()


def even_times(schedule: NoiseSchedule, steps: int, end: float = 0.0) -> Tensor:
    """`steps` even intervals from t_max down to `end`, float64."""
    return torch.linspace(schedule.t_max, end, steps + 1, dtype=torch.float64)


def seeds(rows: Sequence[int]) -> list[int]:
    """A seed for each example, far from each other."""
    return [1_000_003 * (i + 1) for i in rows]
