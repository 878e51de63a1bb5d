"""The site's generated pages: all that is installed is on them, and links out of docs/ lead to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from generator import commands, components, notebook, sources, tasks
from generator.markdown import block, cell, code, prose, table
from measures import LAYERS

from ldm_core import Catalog
from ldm_core.catalog.component import KINDS
from ldm_core.catalog.first_party import FIRST_PARTY

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {**dict(components.pages()), **dict(commands.pages()), **dict(tasks.pages(ROOT / "examples"))}


def test_every_component_has_its_place(pages: dict[str, str]) -> None:
    ours = {"ldm-core", *FIRST_PARTY.values()}
    found = [entry for entry in Catalog.discover() if entry.distribution in ours]
    assert len(found) > 100
    for entry in found:
        component = entry.component
        if component.kind == "command":
            assert f"\n## ldm-run {component.name}\n" in pages["commands.md"]
            continue
        page = pages[f"components/{component.kind}.md"]
        assert f"\n## {component.name}\n" in page
        (part,) = [text for text in page.split("\n## ") if text.startswith(f"{component.name}\n")]
        assert entry.distribution in part
        for name in component.presets:
            assert f"| `{name}` |" in part
        if component.source:
            assert "Source: " in part
    assert {kind for kind in KINDS if f"components/{kind}.md" not in pages} <= {"command", "auxiliary_loss"}


def test_every_column_of_options_has_a_head(pages: dict[str, str]) -> None:
    """A reader by ear hears it before each cell."""
    heads = [
        line for page in pages.values() for line in page.splitlines() if line.startswith(("| option", "| setting"))
    ]
    assert len(heads) > 50
    assert not [line for line in heads if any(not name.strip() for name in line.strip("|").split("|"))]


def test_every_column_of_a_written_table_has_a_head() -> None:
    head = re.compile(r"^(\|.*)\n\|[ :|-]+\|$", re.MULTILINE)
    heads = [(name, line) for name, text in read_by_people().items() for line in head.findall(text)]
    assert len(heads) > 80
    assert not [(name, line) for name, line in heads if any(not cell.strip() for cell in line[1:-1].split("|"))]


def test_options_stand_with_type_default_and_help(pages: dict[str, str]) -> None:
    assert (
        "| `eta` | `float` | `0.0` | share of fresh noise: 0 deterministic, 1 as the ancestral sampler |"
        in (pages["components/sampler.md"])
    )
    assert "| `steps` | `int` |" in pages["components/settings.md"]
    assert "`--precision [fp32 \\| bf16 \\| fp16]`" in pages["commands.md"], "a phone cannot break it"
    assert "`--until" in pages["commands.md"] and "ldm-run sample runs/" in pages["commands.md"]
    assert "test" not in pages["components/index.md"].replace("latest", ""), "parts of the tests have no place here"


def test_every_example_is_a_task(pages: dict[str, str]) -> None:
    examples = {readme.parent.name for readme in ROOT.glob("examples/*/README.md")}
    assert {name.split("/")[1][:-3] for name in pages if name.startswith("tasks/")} == {*examples, "index"}
    assert all(f"\n{name}\n" in pages["tasks/index.md"] for name in examples)
    assert examples == set(tasks.ORDER), "each has its place in the order"
    assert (
        "## recipe.yaml\n\n```yaml\n" in pages["tasks/emoji_text.md"] and "first_stage:" in pages["tasks/emoji_text.md"]
    )


def test_every_page_is_in_the_index() -> None:
    listed = (DOCS / "index.md").read_text(encoding="utf-8").split("\n")
    missing = [page.stem for page in DOCS.glob("*.md") if page.stem not in ("index", *listed)]
    assert missing == []


def test_links_out_of_the_docs_lead_to_pages() -> None:
    text = "[a](../examples/emoji_text/README.md) [b](../ldm_core/errors.py#L3) [c](data.md#folders) [d](images/x.png)"
    text += " [e](../README.md) [f](https://host/x.md) [g](#here) [h](../nothing.md) [i](../examples/README.md)"
    led = sources.led(text, DOCS / "python.md", DOCS, DOCS)
    assert "[a](generated/tasks/emoji_text.md)" in led
    assert "[b](generated/source/ldm_core/errors.py.md)" in led
    assert "[c](data.md#folders) [d](images/x.png)" in led
    assert "[e](generated/readme.md) [f](https://host/x.md) [g](#here)" in led
    assert "[h](../nothing.md)" in led, "left for Sphinx to refuse"
    assert "[i](generated/tasks/index.md)" in led
    task = DOCS / "generated" / "tasks" / "emoji_text.md"
    led = sources.led("[a](../image_to_image/README.md) [b](../../docs/data.md)", task, ROOT / "examples/x", DOCS)
    assert led == "[a](image_to_image.md) [b](../../data.md)"


def test_a_file_that_is_linked_has_a_page() -> None:
    pages = dict(sources.pages([Path("ldm_core/errors.py"), Path("docs/data.md"), Path("README.md")]))
    noted = dict(sources.pages([Path("plugins/compvis/README.md")]))
    assert set(pages) == {"source/ldm_core/errors.py.md"}, "pages of the site have no second one"
    assert pages["source/ldm_core/errors.py.md"].startswith(
        "---\norphan: true\n---\n\n# ldm_core/errors.py\n\n```python\n"
    )
    assert "~~~~text\n# ldm-plugin-compvis" in noted["source/plugins/compvis/README.md.md"], (
        "its own blocks of code do not end the page's"
    )


def test_text_is_taken_literally() -> None:
    assert code("a|b") == "`a|b`" and code("a`b") == "`` a`b ``" and code("") == ""
    assert cell("a |\n b") == "a \\| b"
    assert prose("``ldm-run`` of *all* :class:`~x.Y`s `n_m` <b>") == "`ldm-run` of \\*all\\* `x.Y`s `n_m` \\<b\\>"
    assert table(("a", "b"), [("1", "x|y")]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n"
    assert table(("a",), []) == ""
    assert block("x\n\n", "sh") == "```sh\nx\n```\n"


def test_a_notebook_is_a_page(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "text"]},
        {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"text": ["2\n"]}]},
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    ((name, text),) = notebook.pages(tmp_path)
    assert name == "one.md"
    assert text.startswith("# A title\ntext\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n")
    assert text.endswith("[one.ipynb](../one.ipynb).\n")


def read_by_people() -> dict[str, str]:
    """Every Markdown file of the repository that people read, by its path."""
    found = [page for folder in (ROOT, ROOT / ".github", DOCS) for page in folder.glob("*.md")]
    found += [page for folder in ("examples", "plugins", "conditioners") for page in (ROOT / folder).rglob("*.md")]
    return {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in found}


def test_a_link_is_named_by_words_not_by_a_file() -> None:
    """A newcomer does not know what ``python.md`` is; the title of the page says it."""
    written = read_by_people()
    assert len(written) > 60
    links = [(name, label) for name, text in written.items() for label in re.findall(r"\[([^\[\]]+)\]\(", text)]
    assert len(links) > 400
    assert not [(name, label) for name, label in links if label.strip("`* \n").endswith(".md")]


def test_pictures_on_pages_are_drawn_not_read_as_their_source() -> None:
    """The site has no script that draws Mermaid, so a block of it would be shown as text."""
    shown = {**read_by_people(), **dict(tasks.pages(ROOT / "examples")), **dict(notebook.pages(DOCS))}
    assert not [name for name, text in shown.items() if re.search(r"^\s*[`~:]{3,}\W*mermaid", text, re.MULTILINE)]


def test_the_picture_of_the_layers_is_that_of_the_code() -> None:
    """The same rooms in the same layers as the rule that tests hold; nothing runs in it or comes from outside."""
    file = DOCS / "images" / "layers.svg"
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"<script|href|@import|url\(|<image|<foreignObject|\son\w+=", text)
    svg = "{http://www.w3.org/2000/svg}"
    drawn: dict[str, list[str]] = {}
    for line in ElementTree.fromstring(text).iter(f"{svg}text"):
        room = line.find(f"{svg}tspan")
        if room is None:
            drawn[str(line.text)] = []
        else:
            drawn[list(drawn)[-1]].append(str(room.text))
    assert [int(number) for number in drawn] == sorted(set(LAYERS.values()), reverse=True), "the top one first"
    assert {room: int(number) for number, rooms in drawn.items() for room in rooms} == {
        room: number
        for room, number in LAYERS.items()
        if room != "errors"  # one file beside the rooms
    }
    (told,) = re.findall(r"!\[([^\]]*)\]\(images/layers\.svg\)", (DOCS / "architecture.md").read_text(encoding="utf-8"))
    for number, rooms in drawn.items():
        assert f"{number}: {', '.join(rooms)}" in told
