"""The report and the comparison in a real browser: by touch, without network, and by axe-core's rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import written_runs
from browser import chromium, faults

from ldm_core import storage
from ldm_core.cli import main
from ldm_core.data import images

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A touch screen's context, and the reports of two runs in `context.reports`."""
    folder = tmp_path_factory.mktemp("reports")
    maps = {"segmentation": "map of 16x16, classes sky (0), red circle (7); sha256 0123456789abcdef", "seed": "1"}
    runs = [written_runs.write(str(folder / name), header={"steps": 100 + i}) for i, name in enumerate("ab")]
    drawn = images.png_bytes(written_runs.picture(9), maps)
    storage.atomic_write(storage.join(runs[0], "samples/0003.png"), drawn)
    found = {"kind": "evaluation", "line": "FD 12.3", "metrics": [{"values": {"fd": {"value": 12.3}}, "of": "samples"}]}
    storage.atomic_write(storage.join(runs[0], "evaluation.json"), json.dumps(found))
    assert main(["report", runs[0]]) == 0
    assert main(["report", *runs, "--out", str(folder / "ab.html")]) == 0
    with chromium() as browser:
        context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, reduced_motion="reduce")
        context.reports = {"run": folder / "a" / "report.html", "comparison": folder / "ab.html"}
        yield context


@contextmanager
def opened(context: Any, name: str, size: dict[str, int]) -> Iterator[Any]:
    """A report at a size; at the end, nothing was printed and nothing asked for but the file."""
    page, said, asked = context.new_page(), [], []
    path: Path = context.reports[name]
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size(size)
    page.goto(path.as_uri())
    yield page
    page.close()
    assert not said
    assert {address for address in asked if not address.startswith("data:image/")} == {path.as_uri()}


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("name", ["run", "comparison"])
def test_no_serious_fault_of_accessibility(phone: Any, name: str, size: dict[str, int]) -> None:
    if not find_spec("axe_playwright_python"):
        pytest.skip("axe is not installed (make browser)")
    with opened(phone, name, size) as page:
        for part in page.locator("details").all():
            part.evaluate("part => part.open = true")
        assert not faults(page)
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]  # nothing sticks out
        cut = "[...document.querySelectorAll('.chart-head > *')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert page.locator(".chart-head h4:visible").count() > 3
        assert page.evaluate(cut) == 0  # titles and values are shown in full
        levels = [
            int(each[1]) for each in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)")
        ]
        assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
        page.locator(".card .enlarge").first.tap()
        assert page.locator("dialog[open]").is_visible() and not faults(page)


def test_a_tap_reads_a_curve_until_the_next_one(phone: Any) -> None:
    with opened(phone, "run", PHONE) as page:
        chart = page.locator(".chart:has-text('learning rate')")
        chart.scroll_into_view_if_needed()
        box = chart.locator("svg").bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
        tip = chart.locator(".tip")
        assert tip.is_visible()  # it stays when the finger is lifted
        first = tip.inner_text()
        page.touchscreen.tap(box["x"] + box["width"] * 0.95, box["y"] + box["height"] / 2)
        assert tip.is_visible() and tip.inner_text().splitlines()[0] == "step 200" != first.splitlines()[0]
        page.locator("h1").tap()
        assert tip.is_hidden()
        chart.get_by_label("zoom in").tap()
        assert page.evaluate("document.activeElement.textContent") == "+"


def test_a_tap_moves_the_border_of_reconstructions(phone: Any) -> None:
    with opened(phone, "run", PHONE) as page:
        page.get_by_text("swipe", exact=True).tap()
        box = page.locator(".pair").first.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
        at = page.evaluate("getComputedStyle(document.querySelector('.pairs')).getPropertyValue('--at')")
        assert abs(float(at.strip("% ")) - 25) < 1
        page.get_by_text("difference", exact=True).tap()
        assert page.locator(".pair img").nth(1).evaluate("each => getComputedStyle(each).mixBlendMode") == "difference"


def test_pictures_are_turned_by_touch_and_by_key(phone: Any) -> None:
    with opened(phone, "run", PHONE) as page:
        assert page.locator(".cards .what").nth(3).inner_text() == "map of sky, red circle"  # numbers, hash: enlarged
        page.locator(".cards .enlarge").first.tap()
        titles = [page.locator("dialog h3").inner_text()]
        page.get_by_role("button", name="next").tap()
        titles.append(page.locator("dialog h3").inner_text())
        page.keyboard.press("ArrowLeft")
        titles.append(page.locator("dialog h3").inner_text())
        assert titles == ["a red circle", "a blue square", "a red circle"]
        page.get_by_role("button", name="close").tap()
        assert page.locator("dialog").is_hidden()
        slider = page.get_by_label("step of previews", exact=True)
        slider.fill("0")
        assert page.locator(".film").first.locator(".frame.on").get_attribute("data-step") == "100"
