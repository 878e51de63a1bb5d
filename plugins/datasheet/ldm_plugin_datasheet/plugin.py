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
            name="data",
            group="Look",
            summary="Look into data before a run: sizes, captions, classes, boxes, maps, what cannot be read.",
            factory="ldm_plugin_datasheet.command:data",
        )
    ]
