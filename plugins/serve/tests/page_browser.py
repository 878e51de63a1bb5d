"""A real browser for tests of the page: Chromium of the system, driven by playwright."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from page_server import PageServer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (ldm-plugin-serve[test])")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZE = {"width": 1280, "height": 900}
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # the network is cut
WAIT = 20_000  # milliseconds: a busy machine draws slowly


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, or a test that is skipped."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium on the path: none of {', '.join(NAMES)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--disable-gpu", ALONE])
        yield browser
        browser.close()


class Visitor:
    """A browser's page of a server, without network beyond it; a new visit begins without history."""

    def __init__(self, browser: Any, server: PageServer, url: str = "") -> None:
        self.server, self.url = server, url or server.url
        self.own = re.compile(rf"{re.escape(self.url)}/|data:|blob:")
        self.context = browser.new_context(viewport=SIZE, reduced_motion="reduce")
        self.context.set_default_timeout(WAIT)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _said(self, message: Any) -> None:
        # the browser has a line of its own for every refused request, which the page answers by itself
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            self.wrong.append(message.text)

    @contextmanager
    def visit(self, path: str = "/") -> Iterator[Any]:
        """The page; at the end, no error was printed and nothing was asked for elsewhere."""
        self.server.requests.clear()
        self.server.pause, self.server.token = 0.0, ""
        self.page.set_viewport_size(SIZE)
        self.page.emulate_media(color_scheme="light", reduced_motion="reduce")
        yield self._gone(path)
        self.page.evaluate("indexedDB.deleteDatabase('ldm-history'), localStorage.clear(), sessionStorage.clear()")
        assert not self.wrong, self.wrong
        assert self.asked and all(self.own.match(address) for address in self.asked)

    def _gone(self, path: str) -> Any:
        self.page.goto("about:blank")  # "/#training" after "/" would load nothing
        self.page.goto(self.url + path)
        return self.page


def chosen(page: Any, model: str) -> None:
    """Take a model, once its form is there."""
    page.wait_for_selector("#form button[type=submit]")
    page.select_option("#model", model)


def made(page: Any, server: PageServer, count: int = 2) -> dict[str, Any]:
    """Press the button, wait for the pictures, and return the request that the server had."""
    before = len(server.requests)
    page.click("#form button[type=submit]")
    page.wait_for_function("n => document.querySelectorAll('.card:first-child .tile-open').length == n", arg=count)
    assert len(server.requests) == before + 1
    return server.requests[-1]


def faults(page: Any) -> list[str]:
    """Serious and critical faults that axe-core finds on the page as it stands, in light and in dark colours."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = []
    for scheme, rules in (("light", "{}"), ("dark", "{runOnly: ['color-contrast']}")):  # the rest is the same in both
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        said = page.evaluate(f"axe.run(document, {rules}).then(found => JSON.stringify(found.violations))")
        found += [
            f"{scheme}, {fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]}"
            for fault in json.loads(said)
            if fault["impact"] in ("serious", "critical")
        ]
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    return found
