"""The components of this distribution."""

from __future__ import annotations

from collections.abc import Collection

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components(kinds: Collection[str] | None = None) -> list[Component]:
    """The metrics and the commands."""
    from ldm_plugin_metrics.commands.components import commands

    if kinds is not None and set(kinds) == {"command"}:  # `ldm-run --help` starts without the configs
        return commands()
    from ldm_plugin_metrics.conditional.components import conditional
    from ldm_plugin_metrics.distances.components import distances
    from ldm_plugin_metrics.model.components import of_models
    from ldm_plugin_metrics.pairs.components import pairs

    return [*distances(), *pairs(), *conditional(), *of_models(), *commands()]
