"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The codec."""
    return [
        Component(
            kind="codec",
            name="compvis",
            config="ldm_plugin_compvis.config:CompVisConfig",
            factory="ldm_plugin_compvis.codec:CompVisCodec",
            summary="CompVis latent diffusion .ckpt and .safetensors, Stable Diffusion 1 and 2 single files",
            source="Rombach et al. 2022, arXiv 2112.10752, and the configurations released with it",
        )
    ]
