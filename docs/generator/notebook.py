"""A notebook as a page: its text as it is, its cells as code, what they print below."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generator.markdown import block


def pages(docs: Path) -> Iterator[tuple[str, str]]:
    """One page for each notebook in docs/."""
    for notebook in sorted(docs.glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join(filter(None, (_cell(cell) for cell in cells)))
        yield f"{notebook.stem}.md", f"{text}\n\nThis page is the notebook [{notebook.name}](../{notebook.name}).\n"


def _cell(cell: dict[str, Any]) -> str:
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return text
    printed = "".join("".join(output.get("text", ())) for output in cell.get("outputs", ()))
    return block(text, "python") + (f"\n{block(printed, 'text')}" if printed else "") if text.strip() else ""
