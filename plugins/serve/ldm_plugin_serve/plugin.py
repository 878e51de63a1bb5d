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
            name="serve",
            group="Train and sample",
            summary="Serve trained models to a page and to programs.",
            factory="ldm_plugin_serve.command:serve",
        )
    ]
