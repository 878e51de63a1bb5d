"""The components of this distribution."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core import Component, hookimpl

GROUP = "Look"


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """The commands and the observer."""
    return [
        Component(
            kind="command",
            name="report",
            group=GROUP,
            summary="Write a run, or the comparison of several, as one HTML file.",
            factory="ldm_plugin_report.command:report",
        ),
        Component(
            kind="command",
            name="watch",
            group=GROUP,
            summary="Watch a run that trains: curves, speed, the newest preview.",
            factory="ldm_plugin_report.watch:watch",
        ),
        Component(
            kind="observer",
            name="report",
            config="ldm_plugin_report.config:ReportConfig",
            factory="ldm_plugin_report.observer:ReportObserver",
            summary="one HTML file on the run, in its folder, at its end",
            default=True,
        ),
    ]
