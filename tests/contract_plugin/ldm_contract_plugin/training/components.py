"""The descriptors of these parts."""

from __future__ import annotations

from ldm_contract_plugin.training import config
from ldm_core import Component

_PACKAGE = "ldm_contract_plugin.training"


def components() -> list[Component]:
    """A schedule that knows the latents' size."""
    return [
        Component(
            kind="schedule",
            name="resolution_flow",
            config=config.ResolutionFlowConfig,
            factory=f"{_PACKAGE}.resolution_flow:ResolutionFlow",
            summary="rectified flow, with noisier training times for larger latents",
            source="Esser et al. 2024, arXiv 2403.03206, section 5.3.2",
        ),
    ]
