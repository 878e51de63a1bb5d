"""Rectified flow: the straight path from data to noise, and the network that predicts its velocity."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_contract_plugin.config import FlowConfig, RectifiedFlowConfig
from ldm_core.contracts import NoiseSchedule, Parameterization, Site


class RectifiedFlow(NoiseSchedule):
    """alpha = 1 - t, sigma = t, t in [0, 1]; the network is told 1000 t."""

    t_max = 1.0

    def __init__(self, config: RectifiedFlowConfig, site: Site) -> None:
        pass

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t, float64."""
        return 1 - t.double()

    def sigma(self, t: Tensor) -> Tensor:
        """t, float64."""
        return t.double()

    def noise_level(self, t: Tensor) -> Tensor:
        """1000 t."""
        return 1000 * t.float()

    def draw(self, u: Tensor) -> Tensor:
        """Uniform in (0, 1]."""
        return 1 - u.double()


class Flow(Parameterization):
    """F = eps - x0, on any schedule: x - sigma F = (alpha + sigma) x0."""

    def __init__(self, config: FlowConfig, site: Site) -> None:
        pass

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma) -> (1, -sigma) / (alpha + sigma), 1."""
        both = alpha + sigma
        return 1 / both, -sigma / both, torch.ones_like(alpha)
