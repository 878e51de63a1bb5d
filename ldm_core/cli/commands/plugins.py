"""``ldm-run plugins``: what is installed, from which distribution, what is broken and why."""

from __future__ import annotations

import click

from ldm_core.cli.options import json_option


def _plugins(json_flag: bool) -> int:
    from ldm_core.catalog import Catalog
    from ldm_core.cli.output import print_json, say, table

    catalog = Catalog.discover()
    if json_flag:
        print_json(
            {
                "components": [
                    {
                        "kind": e.component.kind,
                        "name": e.component.name,
                        "presets": [p for p in e.component.presets if p != e.component.name],
                        "distribution": e.distribution,
                        "version": e.version,
                        "plugin": e.plugin,
                        "summary": e.component.summary,
                    }
                    for e in catalog
                ],
                "broken": [
                    {"distribution": b.distribution, "version": b.version, "plugin": b.plugin, "error": b.error}
                    for b in catalog.broken
                ],
            }
        )
        return 0
    rows = [("KIND", "NAME", "DISTRIBUTION", "SUMMARY")]
    for e in catalog:
        presets = ", ".join(p for p in e.component.presets if p != e.component.name)
        summary = e.component.summary + (f" (presets: {presets})" if presets else "")
        rows.append((e.component.kind, e.component.name, f"{e.distribution} {e.version}", summary))
    say("\n".join(table(rows)))
    if catalog.broken:
        broken = [(f"{b.distribution} {b.version}", b.plugin, _one_line(b.error)) for b in catalog.broken]
        say("\nDo not load:")
        say("\n".join(table([("DISTRIBUTION", "PLUGIN", "ERROR"), *broken])))
    return 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


command = click.Command(
    "plugins",
    params=[json_option()],
    callback=_plugins,
    help="List what is installed, with presets and distributions, and every plugin that does not load and why.",
    short_help="What is installed, from which distribution, and what is broken.",
)
