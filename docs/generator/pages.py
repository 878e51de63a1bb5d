"""All generated pages: written anew where they changed, so that Sphinx reads only those again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from generator import commands, components, notebook, sources, tasks

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
FOLDER = "generated"


def write() -> None:
    """Write the generated pages into ``docs/generated``; pages of an earlier build that nothing makes any more go."""
    made = dict(_made())
    folder = DOCS / FOLDER
    for old in folder.rglob("*.md"):
        if old.relative_to(folder).as_posix() not in made:
            old.unlink()
    for name, text in made.items():
        page = folder / name
        page.parent.mkdir(parents=True, exist_ok=True)
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def _made() -> Iterator[tuple[str, str]]:
    yield "readme.md", (ROOT / "README.md").read_text(encoding="utf-8")
    yield from components.pages()
    yield from commands.pages()
    yield from tasks.pages(ROOT / "examples")
    yield from notebook.pages(DOCS)
    yield from sources.pages(linked())


def linked() -> list[Path]:
    """The files outside of docs/ that its pages and the examples' link to, as paths from the root."""
    texts: Mapping[Path, str] = {
        page: page.read_text(encoding="utf-8")
        for page in [*DOCS.glob("*.md"), ROOT / "README.md", *ROOT.glob("examples/*/README.md")]
    }
    found = {target for page, text in texts.items() for _, target in sources.targets(text, page.parent, ROOT)}
    return sorted(path for path in found if (ROOT / path).is_file())
