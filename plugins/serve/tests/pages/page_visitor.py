"""A visitor of the page in a real browser, for each file of tests; skipped where there is no browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from page_browser import Visitor
from page_server import PageServer


@pytest.fixture(scope="module")
def visitor() -> Iterator[Visitor]:
    from browser import chromium

    server = PageServer()
    with chromium() as browser:
        yield Visitor(browser, server)
    server.shutdown()
    server.server_close()
