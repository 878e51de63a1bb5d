"""Links out of docs/: to examples, which have pages here, and to files of the repository, which get one each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from generator.markdown import block

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".html": "html", ".json": "json"}
_PICTURES = (".png", ".jpg", ".svg", ".webp")


def targets(text: str, folder: Path, root: Path) -> Iterator[tuple[re.Match[str], Path]]:
    """The relative links of a page that lies in `folder`, each with the path from `root` that it leads to."""
    for found in _LINK.finditer(text):
        path = Path(os.path.normpath(folder / found[1]))
        if path.is_relative_to(root):
            yield found, path.relative_to(root)


def page_of(path: Path) -> str | None:
    """The page that shows a file of the repository, from docs/; None for one that is a page or a picture already."""
    if path.parts[0] == "docs" and path.suffix in (".md", *_PICTURES):
        return None
    if path.suffix in _PICTURES:
        return None
    if path.as_posix() == "README.md":
        return "generated/readme.md"
    if path.parts[0] == "examples" and path.name == "README.md":
        return f"generated/tasks/{path.parts[1] if len(path.parts) > 2 else 'index'}.md"
    return f"generated/source/{path.as_posix()}.md"


def pages(files: list[Path]) -> Iterator[tuple[str, str]]:
    """One page for each file of the repository that a page links to."""
    root = Path(__file__).parents[2]
    for path in files:
        page = page_of(path)
        if page is None or not page.startswith("generated/source/"):
            continue
        text = (root / path).read_text(encoding="utf-8")
        # a Markdown file is shown as its text: it belongs to the repository, and its links lead around there
        shown = block(text, _LANGUAGES.get(path.suffix, "text")) if "```" not in text else f"~~~~text\n{text}\n~~~~\n"
        yield page.removeprefix("generated/"), f"---\norphan: true\n---\n\n# {path.as_posix()}\n\n{shown}"


def led(text: str, page: Path, origin: Path, docs: Path) -> str:
    """The text of a page with its links led to the site's pages. `page` is where it lies, `origin` the folder that its
    links start from."""
    root = docs.parent

    def target(found: re.Match[str]) -> str:
        path = Path(os.path.normpath(origin / found[1]))
        if not path.is_relative_to(root) or not path.exists():
            return found[0]
        relative = path.relative_to(root)
        if path.is_dir():
            readme = path / "README.md"
            if not readme.is_file():
                return found[0]
            relative = readme.relative_to(root)
        there = page_of(relative)
        goal = docs / there if there else root / relative
        return os.path.relpath(goal, page.parent) + (found[2] or "" if there is None else "")

    return _LINK.sub(target, text)
