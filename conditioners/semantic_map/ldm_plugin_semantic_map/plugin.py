"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_semantic_map.config import PRESETS, SemanticMapConfig


@hookimpl
def ldm_components() -> list[Component]:
    """The label-map conditioner."""
    return [
        Component(
            kind="conditioner",
            name="semantic_map",
            config=SemanticMapConfig,
            factory="ldm_plugin_semantic_map.conditioner:SemanticMapConditioner",
            summary="a label map, rescaled to the latents and concatenated to them",
            source="Rombach et al. 2022, arXiv 2112.10752, section 4.3.2",
            presets=PRESETS,
        )
    ]
