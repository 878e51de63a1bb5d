"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """Autoguidance."""
    return [
        Component(
            kind="guidance",
            name="autoguidance",
            config="ldm_plugin_autoguidance.config:AutoGuidanceConfig",
            factory="ldm_plugin_autoguidance.guidance:AutoGuidance",
            summary="pushes the estimate away from that of a weaker model",
            source="Karras et al. 2024, arXiv 2406.02507, equation 3",
        )
    ]
