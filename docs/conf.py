"""The documentation site: pages of docs/, and those that are made of the code (docs/generator). Builds offline."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from generator import pages, sources  # noqa: E402

import ldm_core  # noqa: E402

project = "ldm-core"
author = copyright = "the developers of ldm-core"
version = release = ldm_core.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["generator", "Dockerfile"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"ldm-core {release}"
html_show_sphinx = False
html_copy_source = False
smartquotes = False  # of `--out` in a text it would make a dash, of quotes in a command others
default_role = "code"  # in docstrings, single ticks are names
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
myst_heading_anchors = 4
python_use_unqualified_type_names = True
# other libraries' inventories would have to be read from their sites
nitpicky = False


def setup(app: Any) -> None:
    """Write the generated pages before Sphinx looks for pages, and lead links out of docs/ to them."""
    pages.write()
    app.connect("source-read", _lead)
    app.connect("autodoc-process-docstring", _literal)
    app.connect("html-page-context", _reachable, priority=900)  # after the theme's


def _reachable(app: Any, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Let keys scroll long lines of code and wide tables, and give captions of lists a level, as axe-core asks for."""
    for key in ("body", "furo_navigation_tree"):
        if key in context:
            told = context[key].replace('role="heading">', 'role="heading" aria-level="2">')
            told = told.replace("<pre>", '<pre tabindex="0">')
            wide = '<div class="table-wrapper'
            context[key] = told.replace(wide, f'<div role="group" aria-label="table" tabindex="0"{wide[4:]}')
    if page == "genindex":  # dotted names are as long as a line, and break nowhere by themselves
        context["metatags"] = context.get("metatags", "") + "<style>.genindextable a{overflow-wrap:anywhere}</style>"
    if page == "_modules/index":  # Sphinx puts lists into lists there, without items around them: one is enough
        head, *items = re.split(r"(?=<li>)", context["body"])
        rows = [item.partition("</li>")[0] + "</li>" for item in items]
        context["body"] = "\n".join([re.sub(r"</?ul>", "", head), "<ul>", *rows, "</ul>"])


def _lead(app: Any, name: str, source: list[str]) -> None:
    page = DOCS / f"{name}.md"
    origin = page.parent
    parts = Path(name).parts
    if parts[:2] == ("generated", "tasks"):
        origin = DOCS.parent / "examples" / ("" if parts[2] == "index" else parts[2])
    elif parts == ("generated", "readme"):
        origin = DOCS.parent
    elif parts[0] == "generated":
        return
    source[0] = sources.led(source[0], page, origin, DOCS)


def _literal(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Stars of shapes, such as ``(B, *s)``, and trailing underscores are no markup in our docstrings."""
    parts = re.split(r"(``.+?``|`.+?`)", "\n".join(lines), flags=re.DOTALL)
    told = (
        part if part.startswith("`") else re.sub(r"(?<![*\w])\*(?=\w+[,)\s])|(?<=\w)_(?=\W)", r"\\\g<0>", part)
        for part in parts
    )
    lines[:] = "".join(told).split("\n")
