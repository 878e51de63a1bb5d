"""Pages of docs/: the files of a worked example that stand in one, and the package that they make."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ldm_core.cli.commands.new import plugin_files

ROOT = Path(__file__).parents[3]


def page(name: str) -> str:
    """The text of docs/NAME.md."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def files_in(text: str) -> Iterator[tuple[str, str]]:
    """Each block of `text` fenced as ``py``, with the path in backquotes before it: a file of a worked example."""
    path = ""
    for found in re.finditer(r"`([\w/]+\.py)`|^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if found[1]:
            path = found[1]
        else:
            yield path, found[2]


def midpoint() -> Mapping[str, str]:
    """Path -> text of the plugin of docs/plugins.md: the skeleton, with the page's files in place of its own."""
    files = plugin_files("sampler", "midpoint")
    written = dict(files_in(page("plugins")))
    assert written.keys() < files.keys(), "the page replaces files that the skeleton does not have"
    return {**files, **written}


def put(files: Mapping[str, str], folder: Path) -> Path:
    """Write a distribution's files under `folder`, and where Python finds its entry points: the path to add."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = folder / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "\n".join(f"{name} = {module}" for name, module in project["entry-points"]["ldm_core"].items())
    (info / "entry_points.txt").write_text(f"[ldm_core]\n{points}\n")
    return folder / "site"
