"""Pieces of Markdown: tables, code, text that is taken literally."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; "" for no rows."""
    lines = [" | ".join(cell(each) for each in row) for row in rows]
    if not lines:
        return ""
    return "\n".join(f"| {line} |" for line in (" | ".join(head), " | ".join("---" for _ in head), *lines)) + "\n"


def cell(text: str) -> str:
    """A table's cell: one line, with its bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Text in the face of code, whatever it holds; "" for none."""
    if not text:
        return ""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def prose(text: str) -> str:
    """A docstring's text as Markdown: double ticks and roles become code, what Markdown would read is escaped."""
    text = re.sub(r":\w+:`~?([^`<]*)`", lambda found: f"``{found[1]}``", text)
    parts = re.split(r"(``[^`]+``|`[^`]+`)", text)
    return "".join(
        code(part.strip("`")) if part.startswith("`") else re.sub(r"([*_<>\[\]$])", r"\\\1", part) for part in parts
    )


def toctree(names: Iterable[str]) -> str:
    """The pages below one, for the menu alone."""
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```", ""])


def block(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"
