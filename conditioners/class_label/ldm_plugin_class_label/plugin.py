"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_class_label.config import PRESETS, ClassLabelConfig


@hookimpl
def ldm_components() -> list[Component]:
    """The class conditioner."""
    return [
        Component(
            kind="conditioner",
            name="class_label",
            config=ClassLabelConfig,
            factory="ldm_plugin_class_label.conditioner:ClassLabelConditioner",
            summary="a class through a learned embedding, by cross-attention",
            source="Rombach et al. 2022, arXiv 2112.10752, section 4.3.1",
            presets=PRESETS,
            small={"width": 128},
        )
    ]
