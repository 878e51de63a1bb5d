"""Options of these parts. Imports no torch."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ldm_core.contracts import ScheduleConfig


@attrs.frozen(kw_only=True)
class ResolutionFlowConfig(ScheduleConfig):
    """Rectified flow whose training times are noisier for larger latents (Esser et al. 2024, arXiv 2403.03206, equation
    23): t' = s t / (1 + (s - 1) t), s the root of the latents' cells over `base_cells`."""

    base_cells: int = attrs.field(default=64, metadata={"help": "latent cells whose times are left as they are"})
    zero_terminal_alpha: ClassVar[bool] = True
    by_size: ClassVar[bool] = True
