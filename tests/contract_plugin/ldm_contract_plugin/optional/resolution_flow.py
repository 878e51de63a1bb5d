"""Rectified flow whose training times depend on the size of the latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ldm_contract_plugin.optional.config import ResolutionFlowConfig
from ldm_core.contracts import NoiseSchedule, Site


class ResolutionFlow(NoiseSchedule):
    """alpha = 1 - t, sigma = t, t in [0, 1]; the network is told 1000 t. Only :meth:`draw` knows sizes."""

    t_max = 1.0

    def __init__(self, config: ResolutionFlowConfig, site: Site) -> None:
        self.config = config

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t, float64."""
        return 1 - t.double()

    def sigma(self, t: Tensor) -> Tensor:
        """t, float64."""
        return t.double()

    def noise_level(self, t: Tensor) -> Tensor:
        """1000 t."""
        return 1000 * t.float()

    def draw(self, u: Tensor, *, shape: Sequence[int] | None = None) -> Tensor:
        """Shifted for latents (C, *s) of `shape`; uniform in (0, 1] where no size is meant."""
        t = 1 - u.double()
        if shape is None:
            return t
        shift = math.sqrt(math.prod(shape[1:]) / self.config.base_cells)
        return shift * t / (1 + (shift - 1) * t)
