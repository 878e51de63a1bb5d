"""A page for each example: its README, with its links led to the pages of the site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from generator.markdown import block, toctree

ORDER = (
    "first_stage_clothing",
    "unconditional_clothing",
    "class_fashion",
    "class_clothing",
    "emoji_text",
    "layout_cells",
    "semantic_cells",
    "super_resolution_clothing",
    "inpainting_clothing",
    "image_to_image",
    "image_guiding",
    "beyond_the_size",
    "composed_conditions",
    "custom_conditioner",
)


def pages(examples: Path) -> Iterator[tuple[str, str]]:
    """The pages of the tasks, in the order of the paper; an example that is not in it comes at the end."""
    found = [readme.parent.name for readme in sorted(examples.glob("*/README.md"))]
    names = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    text = (examples / "README.md").read_text(encoding="utf-8")
    yield "tasks/index.md", f"{text}\n{toctree(names)}"
    for name in names:
        yield f"tasks/{name}.md", (examples / name / "README.md").read_text(encoding="utf-8") + _files(examples / name)


def _files(folder: Path) -> str:
    """The recipe and the script of an example, as they stand in its folder."""
    files = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.py"))]
    languages = {".yaml": "yaml", ".py": "python"}
    parts = [f"\n## {file.name}\n\n{block(file.read_text(encoding='utf-8'), languages[file.suffix])}" for file in files]
    return "".join(parts)
