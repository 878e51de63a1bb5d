"""Visits of the served page by a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from page_server import PageServer

SIZE = {"width": 1280, "height": 900}
WAIT = 60_000  # milliseconds: a busy machine draws slowly


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
