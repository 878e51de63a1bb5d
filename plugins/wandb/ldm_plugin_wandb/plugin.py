"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The observer."""
    return [
        Component(
            kind="observer",
            name="wandb",
            config="ldm_plugin_wandb.config:WandbConfig",
            factory="ldm_plugin_wandb.observer:WandbObserver",
            summary="logs to Weights & Biases, online or offline: curves, pictures, the recipe",
        )
    ]
