"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_bert_text.config import PRESETS, TextConfig


@hookimpl
def ldm_components() -> list[Component]:
    """The text conditioner."""
    return [
        Component(
            kind="conditioner",
            name="text",
            config=TextConfig,
            factory="ldm_plugin_bert_text.conditioner:TextConditioner",
            summary="captions through a jointly trained transformer encoder, by cross-attention",
            source="Rombach et al. 2022, arXiv 2112.10752, section 3.3",
            presets=PRESETS,
            small={
                "vocab_size": 1024,
                "width": 128,
                "layers": 2,
                "heads": 4,
                "head_width": 32,
                "length": 32,
                "spare_tokens": 16,
                "logits": False,
                "embedding_std": 0.5,
                "mask": True,
            },
        )
    ]
