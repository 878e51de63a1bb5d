"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_bbox.config import PRESETS, LayoutConfig


@hookimpl
def ldm_components() -> list[Component]:
    """The layout conditioner."""
    return [
        Component(
            kind="conditioner",
            name="bbox_layout",
            config=LayoutConfig,
            factory="ldm_plugin_bbox.conditioner:LayoutConditioner",
            summary="boxes and classes as tokens through a transformer encoder, by cross-attention",
            source="Rombach et al. 2022, arXiv 2112.10752, section 4.3.1 (tokens: arXiv 2012.09841)",
            presets=PRESETS,
            small={
                "objects": 12,
                "vocab_size": 1024,
                "width": 128,
                "layers": 2,
                "heads": 4,
                "head_width": 32,
                "encode_crop": False,
                "logits": False,
                "embedding_std": 0.5,
                # short trainings do not learn places from tokens alone
                "map_channels": 8,
            },
        )
    ]
