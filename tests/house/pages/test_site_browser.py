"""The site in a real browser, without network: by axe-core's rules, and no page wider than a phone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import generator.pages
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make browser)")
from browser import chromium, faults
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[3] / "docs"
WIDTHS = (1280, 390)
PAGE = """# A page

Text with [a link](second.md), `code`, and an option of the command: --out "a b".

| a setting | type | default | what it does, in more words than a phone is wide |
|---|---|---|---|
| `a_name_that_is_rather_long` | `list[int]` | `(1, 2, 3, 4)` | some_words_that_cannot_be_broken_anywhere_at_all |

    ldm-run sample runs/demo --prompt "a line that is far longer than a phone is wide" --images 8 --steps 50

## A second heading

```python
def function(argument: dict[str, tuple[int, ...]], another: str = "a default") -> list[str]:  # of no use
    return [f"{argument} {number + 1.5}" for number in range(3)]
```

```{toctree}
:caption: More
second
```
"""


def built(source: Path, out: Path) -> Path:
    """The site of a folder's pages, by the configuration in docs/."""
    Sphinx(str(source), str(DOCS), str(out), str(out / ".doctrees"), "html", status=None, freshenv=True).build()
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not find_spec("axe_playwright_python"):
        pytest.skip("axe is not installed (make browser)")
    with chromium() as opened:
        yield opened


FEWER = "[...document.querySelectorAll('article dl.py, article tr')].slice(40).forEach(each => each.remove())"
"""Leaves the first entries of a long page: hundreds more are of the same template, and take axe minutes."""


KINDS = "[...new Set([...document.querySelectorAll('body *')].map(each => `${each.tagName}.${each.className}`))]"
"""The kinds of elements of a page: colours are given to these, so contrast is looked at where there is a new one."""


def faults_of(browser: Any, site: Path, files: Sequence[Path]) -> list[str]:
    """Of pages of the site: axe-core's, what the browser prints or asks for, and pages to be moved sideways."""
    page, said, found, known = browser.new_context(reduced_motion="reduce").new_page(), [], [], set[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(site.as_uri()) else None)
    page.on("requestfailed", lambda request: said.append(request.url))
    for file in files:
        page.goto(file.as_uri())
        for width in WIDTHS[::-1]:
            page.set_viewport_size({"width": width, "height": 844})
            wide = page.evaluate("document.documentElement.scrollWidth") > width
            page.evaluate(FEWER)
            kinds = set(page.evaluate(KINDS)) if width == WIDTHS[0] else set()
            told = faults(page, narrowed=width != WIDTHS[0], contrast=not kinds <= known)
            told += [*said, *["is wider than the window"] * wide]
            known |= kinds
            found += [f"{file.relative_to(site)}, {width} px: {each}" for each in told]
            said.clear()
    return found


def test_a_page_of_the_site(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its table and code are."""
    monkeypatch.setattr(generator.pages, "write", lambda: None)
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text(PAGE)
    (source / "second.md").write_text("# A second page\n\nText.\n")
    site = built(source, tmp_path / "site")
    assert not faults_of(browser, site, [site / "index.html"])
    text = (site / "index.html").read_text()
    assert "--out &quot;a b&quot;." in text or '--out "a b".' in text, "an option is changed by typography"


SOURCES = ("_modules", "generated/source")
"""Folders of pages with one file of code each: of one template, and slow for axe, as each word is an element."""


def looked_at(site: Path) -> list[Path]:
    """All pages that a person reads, and of each folder of sources the smallest, the middle ones and the list."""
    files = sorted(site.rglob("*.html"))
    found = [f for f in files if not f.relative_to(site).as_posix().startswith(SOURCES)]
    for folder in SOURCES:
        code = sorted((f for f in (site / folder).rglob("*.html") if f.name != "index.html"), key=size)
        found += [code[0], *code[len(code) // 4 : -len(code) // 4 : len(code) // 4]]
        found += [f for f in [site / folder / "index.html"] if f.is_file()]
    return found


def size(file: Path) -> int:
    return file.stat().st_size


@pytest.mark.slow
def test_every_page_of_the_site(browser: Any, tmp_path: Path) -> None:
    site = built(DOCS, tmp_path / "site")
    files = looked_at(site)
    assert len(files) > 60 and len(list(site.rglob("*.html"))) > 200
    assert not faults_of(browser, site, files)
