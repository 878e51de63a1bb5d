"""``ldm-run plugins``: the installed parts with their distributions, and those that are broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import command
from ldm_core.cli.options import json_option

if TYPE_CHECKING:
    from ldm_core.catalog import Broken, Catalog


@attrs.frozen(kw_only=True)
class PluginsOptions:
    """The form of the listing."""

    json: bool = json_option()


@command(PluginsOptions, examples=["ldm-run plugins", "ldm-run plugins --json | jq -r '.components[].name'"])
def plugins(options: PluginsOptions) -> int:
    """List what is installed, with presets and distributions, and every plugin, command or name that cannot be used
    and why."""
    from ldm_core.cli.output import print_json, say, table

    catalog = installed()
    broken = [*catalog.broken, *catalog.claimed_twice(), *_commands_that_do_not_load(catalog)]
    if options.json:
        print_json({"components": _components(catalog), "broken": [attrs.asdict(each) for each in broken]})
        return 0
    rows = [("KIND", "NAME", "DISTRIBUTION", "SUMMARY")]
    for e in catalog:
        presets = ", ".join(p for p in e.component.presets if p != e.component.name)
        summary = e.component.summary + (f" (presets: {presets})" if presets else "")
        rows.append((e.component.kind, e.component.name, f"{e.distribution} {e.version}", summary))
    say("\n".join(table(rows)))
    if broken:
        lines = [(f"{b.distribution} {b.version}", b.plugin, " ".join(b.error.split())) for b in broken]
        say("\nDo not load:")
        say("\n".join(table([("DISTRIBUTION", "PLUGIN", "ERROR"), *lines])))
    return 0


def _components(catalog: Catalog) -> list[dict[str, object]]:
    return [
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
    ]


def _commands_that_do_not_load(catalog: Catalog) -> list[Broken]:
    """Import every command, which is light by its contract, and return a row for each that fails."""
    from ldm_core.catalog import Broken
    from ldm_core.cli.group import loaded
    from ldm_core.errors import ComponentError

    rows = []
    for entry in catalog.of("command"):
        try:
            loaded(entry)
        except ComponentError as error:
            rows.append(Broken(entry.plugin, entry.distribution, entry.version, str(error)))
    return rows
