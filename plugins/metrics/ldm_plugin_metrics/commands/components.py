"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component


def commands() -> list[Component]:
    """The commands."""
    return [
        Component(
            kind="command",
            name="evaluate",
            factory="ldm_plugin_metrics.commands.evaluate:evaluate",
            summary="Measure a model's samples, or pictures, by any metrics.",
            group="Evaluation",
        ),
        Component(
            kind="command",
            name="compare",
            factory="ldm_plugin_metrics.commands.compare:compare",
            summary="Put evaluations side by side, with their differences.",
            group="Evaluation",
        ),
    ]
