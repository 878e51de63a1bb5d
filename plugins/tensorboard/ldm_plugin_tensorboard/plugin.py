"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The observer."""
    return [
        Component(
            kind="observer",
            name="tensorboard",
            config="ldm_plugin_tensorboard.config:TensorBoardConfig",
            factory="ldm_plugin_tensorboard.observer:TensorBoardObserver",
            summary="event files for TensorBoard: curves, pictures, the recipe",
        )
    ]
