"""The commands of this distribution."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core import Component, hookimpl

GROUP = "Measure"


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """The commands."""
    return [
        Component(
            kind="command",
            name="bench",
            group=GROUP,
            summary="Measure speed and memory of a model's components on this machine.",
            factory="ldm_plugin_study.bench.command:bench",
        ),
        Component(
            kind="command",
            name="study",
            group=GROUP,
            summary="Study models over many settings: guidance, first stages.",
            factory="ldm_plugin_study.command:study",
        ),
        Component(
            kind="command",
            name="tune",
            group=GROUP,
            summary="Find settings of sampling for a model; keep them as presets.",
            factory="ldm_plugin_study.tune.command:tune",
        ),
    ]
