"""The files of a study: CSV, Markdown, JSON, PNG and SVG; and the end of its command."""

from __future__ import annotations

import csv as tables
import io
import json
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from ldm_core import storage
from ldm_core.cli.output import say


def write(
    folder: str,
    name: str,
    *,
    csv: Iterable[Sequence[object]],
    markdown: Iterable[str],
    plain: Mapping[str, Any],
    canvas: Any,
) -> list[str]:
    """Write all files of this `name` to `folder`: rows (None: an empty field), lines, plain values, and a figure of
    matplotlib; their URLs. Texts in them name local files without their folders, as they are handed on."""
    texts: dict[str, str | bytes] = {
        "csv": _csv([_named(each) for each in row] for row in csv),
        "md": "\n".join(map(storage.told_without_folders, markdown)) + "\n",
        "json": json.dumps(_named(plain), indent=2) + "\n",
        **{ending: _picture(canvas, ending) for ending in ("png", "svg")},
    }
    urls = {ending: storage.join(folder, f"{name}.{ending}") for ending in texts}
    for ending, content in texts.items():
        storage.atomic_write(urls[ending], content)
    return list(urls.values())


def _named(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _named(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_named(each) for each in value]
    return storage.told_without_folders(value) if isinstance(value, str) else value


def _csv(rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    tables.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _picture(canvas: Any, ending: str) -> bytes:
    file = io.BytesIO()
    canvas.savefig(file, format=ending, dpi=120)
    return file.getvalue()


def canvas(width: float, height: float) -> Any:
    """An empty figure of matplotlib, in inches, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def markdown_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows, the first one of headings, as a table of Markdown."""
    head, *others = rows
    lines = [f"| {' | '.join(head).lower()} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in others)]


def finish(
    told: MutableMapping[str, Any],
    plain: Mapping[str, Any],
    lines: Iterable[str],
    urls: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """End a study's command: its document is put into `told`; without `as_json` a reader gets `lines` and the files."""
    told.update(status="done", files=urls, **plain)
    for line in [] if as_json else [*lines, "", *map(storage.shown, urls)]:
        say(line, longest=400)
