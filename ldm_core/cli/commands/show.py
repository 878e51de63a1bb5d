"""``ldm-run show NAME``: one component, preset, recipe or section of settings."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.catalog.component import laptop_site
from ldm_core.cli.catalog import installed
from ldm_core.cli.declaration import argument, command, option
from ldm_core.cli.options import json_option

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog, Entry

RECIPES = "recipes"
"""The name that stands for all shipped recipes."""
_ROW = ("name", "type", "default", "help")
SETTINGS = "settings"
"""The name that stands for all settings of the core itself."""


@attrs.frozen(kw_only=True)
class ShowOptions:
    """The thing to show."""

    name: str = argument(
        "NAME",
        "A component, preset, recipe or section of settings; `recipes` or `settings` for all of those.",
        completes="name",
    )
    kind: str | None = option(
        None, "The kind that is meant, where several use the name.", metavar="KIND", completes="kind"
    )
    json: bool = json_option()


@command(ShowOptions, examples=["ldm-run show unet", "ldm-run show trainer", "ldm-run show laptop > my.yaml"])
def show(options: ShowOptions) -> int:
    """Show one component or preset: what it is, every setting with its default, its presets, its source; or a
    section of the core's own settings: data, first_stage_trainer, trainer, sample, storage, or all of them as
    `settings`. `show recipes` lists the shipped recipes, and `show` with the name of one prints it; `show samplers`
    (stage_objectives, ...) lists the parts of a kind."""
    from ldm_core.cli.output import print_json, print_problems, say
    from ldm_core.errors import LDMError

    if options.kind is None and (_shown_recipe(options.name, options.json) or _shown_kind(options.name, options.json)):
        return 0
    try:
        found = _descriptions(options.name, options.kind)
    except LDMError as error:
        if options.json:
            print_problems(error)
        raise
    if options.json:
        print_json(found[0] if len(found) == 1 else found)
    else:
        say("\n\n".join("\n".join(_lines(d)) for d in found))
    return 0


def _descriptions(name: str, kind: str | None) -> list[dict[str, Any]]:
    """Describe every section of settings, component and preset of this name. Raises ComponentError for none."""
    from ldm_core.recipe.keys import SECTIONS

    catalog = installed()
    if kind is not None or name not in (*SECTIONS, SETTINGS):
        return [_description(*catalog.get(k, name), name) for k in _kinds(catalog, name, kind)]
    sections = [key for key in SECTIONS if name in (key, SETTINGS)]
    own = [_recipe_itself()] if name == SETTINGS else []
    parts = [k for k in _kinds_with(catalog, name) if k != "command"]  # `ldm-run sample --help` shows that one
    return [*own, *map(_section, sections), *(_description(*catalog.get(k, name), name) for k in parts)]


def _shown_recipe(name: str, json_flag: bool) -> bool:
    """Print all shipped recipes (``recipes``), or the one of this name; False where `name` is none of these."""
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


def _shown_kind(name: str, json_flag: bool) -> bool:
    """Print the installed parts of a kind, named in the plural; False where `name` is none."""
    from ldm_core.catalog.component import KINDS
    from ldm_core.cli.output import print_json, say, table

    kind = next((k for k in KINDS if name in (f"{k}s", f"{k}es")), None)
    if kind is None:
        return False
    found = {e.component.name: e.component.summary for e in installed() if e.component.kind == kind}
    if json_flag:
        print_json(found)
    else:
        say("\n".join(table([(kind.upper(), ""), *found.items()])))
    return True


def _kinds(catalog: Catalog, name: str, kind: str | None) -> list[str]:
    """Find the kinds that have a component or preset of this name. ComponentError with a near name for none."""
    from ldm_core.catalog.component import KINDS
    from ldm_core.catalog.first_party import FIRST_PARTY
    from ldm_core.errors import ComponentError, suggest
    from ldm_core.recipe import shipped
    from ldm_core.recipe.keys import SECTIONS

    if kind is not None:
        if kind not in KINDS:
            raise ComponentError(f"--kind: no kind '{kind}'{suggest(kind, KINDS)} (kinds: {', '.join(KINDS)})")
        return [kind]
    if found := _kinds_with(catalog, name):
        return found
    if known := [k for k, n in FIRST_PARTY if n == name]:
        return known
    every = sorted({n for k in KINDS for n in catalog.names(k)} | {n for _, n in FIRST_PARTY})
    every += [*SECTIONS, SETTINGS, RECIPES, *shipped.shipped()]
    raise ComponentError(
        f"nothing is named '{name}'{suggest(name, every)} (components and presets: `ldm-run plugins`; recipes: "
        f"`ldm-run show {RECIPES}`; settings: `ldm-run show {SETTINGS}`)"
    )


def _kinds_with(catalog: Catalog, name: str) -> list[str]:
    from ldm_core.catalog.component import KINDS

    return [kind for kind in KINDS if name in catalog.names(kind)]


def _section(key: str) -> dict[str, Any]:
    from ldm_core.recipe.keys import SECTIONS

    return _settings(SECTIONS[key], key)


def _recipe_itself() -> dict[str, Any]:
    """Describe the keys of a recipe: its own values, and the parts with their defaults."""
    from ldm_core.catalog.component import KINDS
    from ldm_core.recipe.keys import DEFAULTS, LISTS, SINGLE
    from ldm_core.recipe.settings import RecipeSettings

    kinds = {**{kind: kind for kind in SINGLE}, **LISTS}
    parts = [
        {
            "name": key,
            "type": f"list of {kind}s" if key in LISTS else kind,
            "default": repr(DEFAULTS[key]),
            "help": KINDS[kind],
        }
        for key, kind in kinds.items()
    ]
    made = _settings(RecipeSettings, "recipe")
    return {**made, "options": [*made["options"], *parts]}


def _settings(settings: type, name: str) -> dict[str, Any]:
    about = " ".join((settings.__doc__ or "").split())
    return {"kind": SETTINGS, "name": name, "about": about, "options": _options(settings)}


def _options(config: type) -> list[dict[str, str]]:
    """Make one row for each field of a config or section."""
    from ldm_core.config.structure import field_table

    return [dict(zip(_ROW, row, strict=True)) for row in field_table(config)]


def _description(entry: Entry, preset: Any, name: str) -> dict[str, Any]:
    from ldm_core.config.structure import unstructure

    component = entry.component
    options = _options(component.config)
    base = {row["name"]: row["default"] for row in options}
    own = {} if preset is None else unstructure(preset)
    presets = {
        p: {k: v for k, v in unstructure(value).items() if repr(v) != base.get(k)}
        for p, value in component.presets.items()
    }
    described = {
        "kind": component.kind,
        "name": name,
        "component": component.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "summary": component.summary,
        "about": " ".join((component.config.__doc__ or "").split()),
        "source": component.source,
        **_precisions(component.config if preset is None else preset),
        "options": [{**row, "default": repr(own.get(row["name"]))} if row["name"] in own else row for row in options],
        "presets": presets,
        "small": dict(unstructure(component.scaled_down(laptop_site()))),
    }
    return {**described, **_of_command(entry)} if component.kind == "command" else described


def _precisions(config: Any) -> dict[str, list[str]]:
    """The arithmetic that a part allows, where its config names it."""
    from ldm_core.contracts import Config, configs

    named = configs.of(Config, config).precisions
    return {"precisions": list(named)} if isinstance(named, tuple) and named else {}


def _of_command(entry: Entry) -> dict[str, Any]:
    import click

    from ldm_core.cli.group import loaded

    command = loaded(entry)
    records = filter(None, (param.get_help_record(click.Context(command)) for param in command.params))
    options = [dict(zip(_ROW, (name, "", "", text), strict=True)) for name, text in records]
    return {"about": " ".join((command.help or "").split()), "options": options}


def _lines(d: dict[str, Any]) -> list[str]:
    from ldm_core.cli.output import table, width_of, wrapped

    width = width_of(sys.stdout)
    lines = _head(d)
    runs = f"Runs in {' or '.join(d['precisions'])} alone." if "precisions" in d else None
    for text in (d.get("summary"), d["about"], runs, d.get("source") and f"Source: {d['source']}"):
        lines += wrapped(text, min(100, width or 100), "  ") if text else []
    if d["kind"] == "command":
        lines += ["", *table([("OPTION", ""), *((o["name"], o["help"]) for o in d["options"])], width=width)]
    elif d["options"]:
        rows = [(o["name"], _type_in_words(o["type"]), o["default"], o["help"]) for o in d["options"]]
        lines += ["", *table([("OPTION", "TYPE", "DEFAULT", ""), *rows], width=width)]
    else:
        lines += ["", "no options"]
    if d.get("presets"):
        presets = [(p, _values(v) or "as it is") for p, v in d["presets"].items()]
        lines += ["", "Presets, with what differs from the defaults of the component:"]
        lines += table(presets, "  ", width)
    if d.get("small"):
        lines += ["", f"With scale: small  {_values(d['small'])}"]
    return lines


def _head(d: dict[str, Any]) -> list[str]:
    """Write the first line: kind, name and distribution."""
    if d["kind"] == SETTINGS:
        how = "KEY=VALUE" if d["name"] == "recipe" else f"{d['name']}.KEY=VALUE"
        return [f"settings of {'the recipe itself' if d['name'] == 'recipe' else d['name']}, set by {how}"]
    preset = f" (a preset of {d['component']})" if d["name"] != d["component"] else ""
    return [f"{d['kind']} {d['name']}{preset}, from {d['distribution']} {d['version']}"]


def _type_in_words(text: str) -> str:
    """Write ``Literal['crop', 'pad']`` as ``crop|pad``."""
    return re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", "|").replace("'", ""), text)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items())
