"""Every view of the page by axe-core's rules, in both widths, in light and dark colours, and no wider than a phone."""

from __future__ import annotations

from typing import Any

import pytest
from page_browser import Visitor, chosen, made
from page_server import MODELS, picture
from page_visitor import visitor as visitor

pytest.importorskip("axe_playwright_python", reason="axe is not installed (make browser)")
from browser import faults

pytestmark = pytest.mark.slow
FORMS = [model["id"] for model in MODELS if model["ready"]]


def look(page: Any, name: str) -> None:
    """Hold the page as it stands to the rules; the bar that lies over the end of a form is put behind it, as what it
    covers is scrolled to."""
    page.evaluate("document.querySelectorAll('.panel-foot').forEach(each => each.style.position = 'static')")
    for width, height in ((390, 844), (1280, 900)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert not faults(page, narrowed=width == 390), f"{name}, {width} px"


@pytest.mark.parametrize("name", FORMS)
def test_a_form(visitor: Visitor, name: str) -> None:
    """With each kind of input given, and all of its settings open."""
    with visitor.visit() as page:
        chosen(page, name)
        for part in page.locator("#form details").all():
            part.evaluate("part => part.open = true")
        for asked in page.get_by_text("Choose a picture").all():
            with page.expect_file_chooser() as chooser:
                asked.click()
            chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture(3)}])
            page.wait_for_selector(".surface-canvas")
        if name == "layout":
            page.get_by_role("button", name="Add a box").click()
        look(page, name)


def test_results_and_their_dialogs(visitor: Visitor) -> None:
    with visitor.visit() as page:
        visitor.server.pause = 30.0
        page.get_by_label("Prompt").fill("a long work")
        page.click("#form button[type=submit]")
        page.wait_for_selector(".tile.waiting img:not([hidden])")
        look(page, "a picture on its way")
        page.get_by_role("button", name="Cancel").click()
        page.wait_for_selector(".card[data-state=cancelled]")
        visitor.server.pause = 0.0
        page.get_by_label("Prompt").fill("a red circle")
        made(page, visitor.server)
        for number in (0, 1):
            page.locator(".pick input").nth(number).check()
        look(page, "results, two of them picked")
        page.get_by_role("button", name="Compare", exact=True).click()
        page.wait_for_selector("dialog .columns")
        look(page, "pictures side by side")
        page.keyboard.press("Escape")
        page.locator(".tile-open").first.click()
        page.wait_for_selector("dialog .facts")
        look(page, "a large picture")
        page.keyboard.press("Escape")
        page.get_by_role("link", name="History").click()
        page.wait_for_selector(".thumb")
        look(page, "the history")
        page.get_by_role("button", name="Delete").first.click()
        look(page, "the question before the history is deleted")


def test_views_without_pictures(visitor: Visitor) -> None:
    with visitor.visit() as page:
        page.get_by_role("link", name="History").click()
        look(page, "an empty history")
        page.get_by_role("link", name="Training").click()
        page.wait_for_selector(".plot-line")
        look(page, "a training")
        page.get_by_role("link", name="Create").click()
        page.wait_for_selector("#form button[type=submit]")
        visitor.server.token = "open sesame"
        page.reload()
        page.get_by_label("Token", exact=True).wait_for()
        look(page, "the question for the token")


def test_the_blind_comparison(visitor: Visitor) -> None:
    with visitor.visit("/compare") as page:
        page.get_by_text("Samples of the runs").click()
        look(page, "samples of the runs")
        page.get_by_label("Pairs at most").fill("1")
        page.get_by_role("button", name="Begin").click()
        page.wait_for_selector(".trial:not(.loading) .answer:not(:disabled)")
        look(page, "a pair")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector(".outcome")
        look(page, "the outcome")
