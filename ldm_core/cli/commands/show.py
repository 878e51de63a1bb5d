"""``ldm-run show NAME``: one component or preset: its options, presets and source; or the shipped recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.catalog.component import LAPTOP_SITE
from ldm_core.cli.command import argument, command, installed, option
from ldm_core.cli.options import json_option

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog, Entry

RECIPES = "recipes"
"""The name that stands for all shipped recipes."""


@attrs.frozen(kw_only=True)
class ShowOptions:
    """What is to be shown."""

    name: str = argument("NAME", "A component, preset or recipe; `recipes` for the list of those.", completes="name")
    kind: str | None = option(None, "Where several kinds use the name: which one.", metavar="KIND", completes="kind")
    json: bool = json_option()


@command(ShowOptions, examples=["ldm-run show unet", "ldm-run show recipes", "ldm-run show laptop > my.yaml"])
def show(options: ShowOptions) -> int:
    """Show one component or preset: what it is, every option with its default, its presets, its source.
    `show recipes` lists the shipped recipes, and `show` with the name of one prints it."""
    from ldm_core.cli.output import print_json, print_problems, say
    from ldm_core.errors import LDMError

    name = options.name
    if options.kind is None and _shown_recipe(name, options.json):
        return 0
    catalog = installed()
    try:
        found = [_description(*catalog.get(k, name), name) for k in _kinds(catalog, name, options.kind)]
    except LDMError as error:
        if options.json:
            print_problems(error)
        raise
    if options.json:
        print_json(found[0] if len(found) == 1 else found)
    else:
        say("\n\n".join("\n".join(_lines(d)) for d in found))
    return 0


def _shown_recipe(name: str, json_flag: bool) -> bool:
    """Print the shipped recipes, where `name` is ``recipes``, or the one that it names; whether it was one of these."""
    from ldm_core.cli.output import print_json, say, table
    from ldm_core.recipe import shipped

    names = shipped.shipped()
    if name == RECIPES and json_flag:
        print_json(names)
    elif name == RECIPES:
        say("\n".join(table([("RECIPE", ""), *names.items()])))
        say("\nldm-run show NAME prints one, ldm-run --recipe NAME starts from it.")
    elif name in names and json_flag:
        print_json(shipped.load_plain(name))
    elif name in names:
        say(shipped.shipped_text(name).rstrip("\n"))
    else:
        return False
    return True


def _kinds(catalog: Catalog, name: str, kind: str | None) -> list[str]:
    """The kinds that have a component or preset of this name; ComponentError with the likely one where none has."""
    from ldm_core.catalog.component import KINDS
    from ldm_core.catalog.first_party import FIRST_PARTY
    from ldm_core.errors import ComponentError, suggest

    if kind is not None:
        if kind not in KINDS:
            raise ComponentError(f"--kind: no kind '{kind}'{suggest(kind, KINDS)} (kinds: {', '.join(KINDS)})")
        return [kind]
    if found := [k for k in KINDS if name in catalog.names(k)]:
        return found
    if known := [k for k, n in FIRST_PARTY if n == name]:
        return known
    every = sorted({n for k in KINDS for n in catalog.names(k)} | {n for _, n in FIRST_PARTY})
    raise ComponentError(f"no component or preset named '{name}'{suggest(name, every)}; see `ldm-run plugins`")


def _description(entry: Entry, preset: Any, name: str) -> dict[str, Any]:
    from ldm_core.config.structure import field_table, unstructure

    component = entry.component
    table = field_table(component.config)
    own = {} if preset is None else unstructure(preset)
    options = [
        {
            "name": field,
            "type": kind,
            "default": repr(own[field]) if field in own else default,
            "help": help_text,
        }
        for field, kind, default, help_text in table
    ]
    base = {field: default for field, _, default, _ in table}
    presets = {
        p: {k: v for k, v in unstructure(value).items() if repr(v) != base.get(k)}
        for p, value in component.presets.items()
    }
    return {
        "kind": component.kind,
        "name": name,
        "component": component.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "summary": component.summary,
        "about": " ".join((component.config.__doc__ or "").split()),
        "source": component.source,
        "options": options,
        "presets": presets,
        "small": dict(unstructure(component.scaled_down(LAPTOP_SITE))),
    }


def _lines(d: dict[str, Any]) -> list[str]:
    from ldm_core.cli.output import table, wrapped

    what = f"{d['kind']} {d['name']}" + (f" (a preset of {d['component']})" if d["name"] != d["component"] else "")
    lines = [f"{what}, from {d['distribution']} {d['version']}", *wrapped(d["summary"], indent="  ")]
    if d["about"]:
        lines += wrapped(d["about"], indent="  ")
    if d["source"]:
        lines += wrapped(f"Source: {d['source']}", indent="  ")
    if d["options"]:
        options = [
            ("OPTION", "TYPE", "DEFAULT", ""),
            *((o["name"], o["type"], o["default"], o["help"]) for o in d["options"]),
        ]
        lines += ["", *table(options)]
    else:
        lines += ["", "no options"]
    if d["presets"]:
        presets = [(p, _values(v) or "as it is") for p, v in d["presets"].items()]
        lines += ["", "Presets, with what differs from the defaults of the component:", *table(presets, "  ")]
    if d["small"]:
        lines += ["", f"With scale: small  {_values(d['small'])}"]
    return lines


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items())
