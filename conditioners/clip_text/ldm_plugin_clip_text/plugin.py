"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_clip_text.config import PRESETS, ClipTextConfig


@hookimpl
def ldm_components() -> list[Component]:
    """The CLIP text conditioner."""
    return [
        Component(
            kind="conditioner",
            name="clip_text",
            config=ClipTextConfig,
            factory="ldm_plugin_clip_text.conditioner:ClipTextConditioner",
            summary="captions through CLIP's text encoder, by cross-attention",
            source="Radford et al. 2021, arXiv 2103.00020; Rombach et al. 2022, arXiv 2112.10752",
            presets=PRESETS,
            small={"width": 128, "layers": 2, "heads": 4, "inner": 256, "length": 32},
        )
    ]
