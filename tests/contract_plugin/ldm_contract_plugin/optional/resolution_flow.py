"""Rectified flow whose training times depend on the size of the latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ldm_contract_plugin.flow import RectifiedFlow
from ldm_contract_plugin.optional.config import ResolutionFlowConfig
from ldm_core.contracts import Site


class ResolutionFlow(RectifiedFlow):
    """The straight path of :class:`RectifiedFlow`. Only :meth:`draw` knows sizes."""

    def __init__(self, config: ResolutionFlowConfig, site: Site) -> None:
        self.config = config

    def draw(self, u: Tensor, *, shape: Sequence[int] | None = None) -> Tensor:
        """Shifted for latents (C, *s) of `shape`; uniform in (0, 1] where no size is meant."""
        t = super().draw(u)
        if shape is None:
            return t
        shift = math.sqrt(math.prod(shape[1:]) / self.config.base_cells)
        return shift * t / (1 + (shift - 1) * t)
