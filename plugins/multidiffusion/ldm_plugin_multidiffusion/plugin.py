"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """MultiDiffusion."""
    return [
        Component(
            kind="adapter",
            name="multidiffusion",
            config="ldm_plugin_multidiffusion.config:MultiDiffusionConfig",
            factory="ldm_plugin_multidiffusion.adapter:MultiDiffusion",
            summary="estimates large latents in overlapping windows, averaged with smooth weights",
            source="Bar-Tal et al. 2023, arXiv 2302.08113, equation 5; Jiménez 2023, arXiv 2302.02412, section 3",
        )
    ]
