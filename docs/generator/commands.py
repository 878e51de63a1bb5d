"""The command line's page, made from the options that its commands declare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import click

from generator import components
from generator.markdown import block, code, prose, table
from ldm_core.cli.declaration import GENERAL
from ldm_core.cli.group import loaded


def pages() -> Iterator[tuple[str, str]]:
    """One page: every first-party command with its arguments, options under their headings, and examples."""
    lines = ["# The command line", "", "What `ldm-run COMMAND --help` prints, of every first-party command.", ""]
    for entry in components.installed():
        if entry.component.kind == "command":
            lines += _command(entry.component.name, entry.distribution, loaded(entry))
    yield "commands.md", "\n".join(lines)


def _command(name: str, distribution: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"ldm-run {name}")
    yield from (f"## ldm-run {name}", "", block(command.get_usage(context).removeprefix("Usage: "), "text"))
    yield from (prose(" ".join((command.help or "").split())), "")
    if distribution != "ldm-core":
        yield from (f"From `{distribution}`.", "")
    sections: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for param in command.params:
        if record := param.get_help_record(context):
            sections[str(vars(param).get("group", type(param).__dict__.get("group", GENERAL)))].append(record)
    for title in sorted(sections, key=lambda each: (each == GENERAL, each != "Arguments")):
        yield from (f"**{title}**", "")
        # choices may begin a line anew: as one word they would be wider than a phone
        rows = ((code(names.replace("|", " | ")), prose(text)) for names, text in sections[title])
        yield table(("argument" if title == "Arguments" else "option", "meaning"), rows)
    examples = vars(command).get("examples", ())
    if examples:
        yield block("\n".join(examples), "sh")
