"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """Classifier-free guidance."""
    return [
        Component(
            kind="guidance",
            name="cfg",
            config="ldm_plugin_cfg.config:CFGConfig",
            factory="ldm_plugin_cfg.guidance:ClassifierFreeGuidance",
            summary="pushes the conditional estimate away from the unconditional one",
            source="Ho & Salimans 2022, arXiv 2207.12598, equation 6; scale as in Rombach et al. 2022",
        )
    ]
