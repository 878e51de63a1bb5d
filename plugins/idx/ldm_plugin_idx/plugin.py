"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The reader of IDX files."""
    return [
        Component(
            kind="dataset",
            name="idx",
            config="ldm_plugin_idx.config:IdxConfig",
            factory="ldm_plugin_idx.dataset:IdxDataset",
            summary="grey pictures and their classes in IDX files (MNIST and its family, .gz too)",
            source="the format: LeCun, Cortes and Burges, The MNIST database of handwritten digits",
        )
    ]
