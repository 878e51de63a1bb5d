"""Meanings of the network's output F: x0 = c_skip x + c_out F(c_in x), for x = alpha x0 + sigma eps of any schedule.

c_in = 1 / sqrt(alpha² + sigma²) keeps the network's input at unit variance; it is 1 on a variance-preserving
schedule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ldm_core.contracts import Parameterization, Site


class EpsParameterization(Parameterization):
    """F = eps (Ho et al. 2020). alpha must not be 0: there x says nothing of x0."""

    def __init__(self, config: Any = None, site: Site | None = None) -> None:
        pass

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma) -> (1 / alpha, -sigma / alpha, c_in)."""
        return 1 / alpha, -sigma / alpha, torch.rsqrt(alpha**2 + sigma**2)


class X0Parameterization(Parameterization):
    """F = x0."""

    def __init__(self, config: Any = None, site: Site | None = None) -> None:
        pass

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma) -> (0, 1, c_in)."""
        return torch.zeros_like(alpha), torch.ones_like(alpha), torch.rsqrt(alpha**2 + sigma**2)


class VParameterization(Parameterization):
    """F = (alpha eps - sigma x0) / sqrt(alpha² + sigma²), the velocity (Salimans & Ho 2022, appendix D)."""

    def __init__(self, config: Any = None, site: Site | None = None) -> None:
        pass

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma) -> (alpha c_in², -sigma c_in, c_in)."""
        n = torch.rsqrt(alpha**2 + sigma**2)
        return alpha * n**2, -sigma * n, n
