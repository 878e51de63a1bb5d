"""The observer. It imports no torch, and matplotlib only to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_core import hookimpl
from ldm_core.contracts import Site
from ldm_plugin_curves.config import CurvesConfig
from ldm_plugin_curves.draw import pictures


class CurvesObserver:
    """Draws every number of a trained stage: `loss`, over the steps, and `validation`, by bins of diffusion time."""

    def __init__(self, config: CurvesConfig, site: Site) -> None:
        pass

    @hookimpl
    def ldm_stage_pictures(self, stage: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, bytes]:
        """Draw the stage's pictures."""
        return pictures(rows, stage)
