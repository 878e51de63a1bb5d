"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The masked-image conditioner."""
    return [
        Component(
            kind="conditioner",
            name="masked_image",
            config="ldm_plugin_masked_image.config:MaskedImageConfig",
            factory="ldm_plugin_masked_image.conditioner:MaskedImageConditioner",
            summary="a picture with holes, encoded by the first stage, and its mask, beside the latents: inpainting",
            source="Rombach et al. 2022, arXiv 2112.10752, section 4.5",
        )
    ]
