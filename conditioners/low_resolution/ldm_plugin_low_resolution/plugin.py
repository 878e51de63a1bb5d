"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The low-resolution conditioner."""
    return [
        Component(
            kind="conditioner",
            name="low_resolution",
            config="ldm_plugin_low_resolution.config:LowResolutionConfig",
            factory="ldm_plugin_low_resolution.conditioner:LowResolutionConditioner",
            summary="a small version of the picture, concatenated to the latents: super-resolution",
            source="Rombach et al. 2022, arXiv 2112.10752, section 4.4",
        )
    ]
