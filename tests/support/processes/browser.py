"""A real browser for tests of pages: Chromium of the system, driven by playwright, with the network cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make browser)")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # the network is cut


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


EVERY = "{preload: false, rules: {'target-size': {enabled: true}}}"
CONTRAST = "{preload: false, runOnly: ['color-contrast']}"
BUT_CONTRAST = "{preload: false, rules: {'target-size': {enabled: true}, 'color-contrast': {enabled: false}}}"
BY_WIDTH = "{preload: false, runOnly: ['target-size', 'scrollable-region-focusable']}"


def faults(page: Any, *, narrowed: bool = False, contrast: bool = True) -> list[str]:
    """Serious and critical faults that axe-core finds on the page as it stands, in light and in dark colours.

    `narrowed`: the page was looked at in another width, in which all but a few rules had the same answer. `contrast`
    takes four fifths of the time, and may be left out.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = []
    # in dark colours, contrast is other and the rest the same
    whole = [("light", EVERY), ("dark", CONTRAST)] if contrast else [("light", BUT_CONTRAST)]
    for scheme, rules in [("light", BY_WIDTH)] if narrowed else whole:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        said = page.evaluate(f"axe.run(document, {rules}).then(found => JSON.stringify(found.violations))")
        found += [
            f"{scheme}, {fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]}"
            for fault in json.loads(said)
            if fault["impact"] in ("serious", "critical")
        ]
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    return found
