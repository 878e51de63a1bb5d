"""The command of this distribution."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """The command."""
    return [
        Component(
            kind="command",
            name="push",
            group="Weights",
            summary="Upload a run to the Hugging Face Hub, or into a folder, with a model card.",
            factory="ldm_plugin_hub.command:push",
        )
    ]
