"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The observer."""
    return [
        Component(
            kind="observer",
            name="curves",
            config="ldm_plugin_curves.config:CurvesConfig",
            factory="ldm_plugin_curves.observer:CurvesObserver",
            summary="pictures of a run's numbers over its steps, in its folder",
            default=True,
        )
    ]
