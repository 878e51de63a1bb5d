"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_embedding.config import PRESETS, EmbeddingConfig


@hookimpl
def ldm_components() -> list[Component]:
    """The embedding conditioner."""
    return [
        Component(
            kind="conditioner",
            name="embedding",
            config=EmbeddingConfig,
            factory="ldm_plugin_embedding.conditioner:EmbeddingConditioner",
            summary="precomputed vectors, by cross-attention or as one vector",
            source="Blattmann et al. 2022, arXiv 2204.11824 (CLIP vectors)",
            presets=PRESETS,
        )
    ]
