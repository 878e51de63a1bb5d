"""A page for each kind of component: every installed part with its options, presets, source and who brings it."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from generator.markdown import cell, code, prose, table, toctree
from ldm_core import Catalog
from ldm_core.catalog import Entry
from ldm_core.catalog.component import KINDS
from ldm_core.catalog.first_party import FIRST_PARTY
from ldm_core.cli import main
from ldm_core.recipe import shipped


def pages() -> Iterator[tuple[str, str]]:
    """One page a kind, an index of all, one of the core's own settings, one of the shipped recipes."""
    found: dict[str, list[str]] = defaultdict(list)
    for entry in installed():
        found[entry.component.kind].append(entry.component.name)
    kinds = [kind for kind in KINDS if kind in found and kind != "command"]
    rows = [(f"[{words(kind)}]({kind}.md)", KINDS[kind], ", ".join(map(code, sorted(found[kind])))) for kind in kinds]
    yield (
        "components/index.md",
        "\n".join(
            [
                "# Every component",
                "",
                "Made from the descriptors of the parts, as `ldm-run show NAME` prints them.",
                "",
                table(("kind", "", "parts"), rows),
                toctree([*kinds, "settings", "recipes"]),
            ]
        ),
    )
    for kind in kinds:
        yield f"components/{kind}.md", _page(kind, sorted(found[kind]))
    yield "components/settings.md", _settings()
    yield "components/recipes.md", _recipes()


def installed() -> list[Entry]:
    """The components of ldm-core, plugins/ and conditioners/: those of tests and of users have no page."""
    ours = {"ldm-core", *FIRST_PARTY.values()}
    return [entry for entry in Catalog.discover() if entry.distribution in ours]


def words(kind: str) -> str:
    """A kind as a heading: ``first_stage`` -> First stages."""
    text = kind.replace("_", " ").capitalize()
    return text[:-1] + "ies" if text.endswith("y") else text + ("es" if text.endswith("s") else "s")


def shown(name: str, kind: str = "") -> Any:
    """What ``ldm-run show NAME --json`` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(["show", name, *(["--kind", kind] if kind else []), "--json"])
    if status:
        raise RuntimeError(f"ldm-run show {name} ended with {status}: {out.getvalue()}")
    return json.loads(out.getvalue())


def _page(kind: str, names: list[str]) -> str:
    lines = [f"# {words(kind)}", "", f"Kind `{kind}`: {prose(KINDS[kind])}.", ""]
    for name in names:
        lines += _component(shown(name, kind))
    return "\n".join(lines)


def _component(about: dict[str, Any]) -> Iterator[str]:
    yield from (f"## {about['name']}", "", f"{prose(about['summary'])}. From `{about['distribution']}`.", "")
    if about["about"]:
        yield from (prose(about["about"]), "")
    if about.get("precisions"):
        yield from (f"Runs in {' or '.join(about['precisions'])} alone.", "")
    if about["options"]:
        yield table(("option", "type", "default", "meaning"), map(_row, about["options"]))
    if about["presets"]:
        rows = [(code(name), _values(values) or "as it is") for name, values in about["presets"].items()]
        yield table(("preset", "what differs from the defaults"), rows)
    if about["small"]:
        yield from (f"With `scale: small`: {_values(about['small'])}.", "")
    if about["source"]:
        yield from (f"Source: {prose(about['source'])}", "")


def _row(option: dict[str, str]) -> tuple[str, ...]:
    kind = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", " or ").replace("'", ""), option["type"])
    return code(option["name"]), code(kind), code(option["default"]), prose(option["help"])


def _values(values: dict[str, Any]) -> str:
    return ", ".join(code(f"{name}={value}") for name, value in values.items())


def _settings() -> str:
    lines = [
        "# Settings of the core",
        "",
        "What `ldm-run show settings` prints: set by `KEY=VALUE` or in a recipe.",
        "",
    ]
    for section in shown("settings"):
        if section["kind"] != "settings":
            continue
        lines += [f"## {section['name']}", "", prose(section["about"]), ""]
        lines.append(table(("setting", "type", "default", "meaning"), map(_row, section["options"])))
    return "\n".join(lines)


def _recipes() -> str:
    rows = [(code(name), cell(prose(line))) for name, line in shipped.shipped().items()]
    text = "`ldm-run --recipe NAME` starts from one, `ldm-run show NAME` prints it; [the zoo](../../zoo.md) says more."
    return "\n".join(["# Shipped recipes", "", text, "", table(("recipe", ""), rows)])
