"""The page before the real server, with random weights: a picture is made, saved, and brings its prompt back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from browser import chromium
from header_files import PLAIN, write_run
from page_browser import Visitor, chosen
from page_server import PageServer
from PIL import Image
from serve_process import running

CLASSES: dict[str, Any] = {
    **PLAIN,
    "conditioners": [{"use": "class_label", "classes": 4, "width": 8, "dropout": 0.1}],
}


def test_a_picture_of_the_real_server(tmp_path: Path) -> None:
    write_run(tmp_path / "words")
    write_run(tmp_path / "classes", CLASSES)
    rows = [{"stage": "denoiser", "step": step, "loss": 1 / step, "lr": 1e-3} for step in range(1, 20)]
    (tmp_path / "words" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with chromium() as browser, running([tmp_path / "words", tmp_path / "classes"]) as served:
        visitor = Visitor(browser, PageServer(), served.url.rstrip("/"))
        with visitor.visit() as page:
            chosen(page, "classes")
            page.locator("#form .choice").nth(2).click()
            page.get_by_label("Steps", exact=True).fill("2")
            page.click("#form button[type=submit]")
            page.wait_for_selector("article[aria-label='2'] .tile-open")
            chosen(page, "words")
            page.get_by_label("Prompt").fill("a red circle")
            page.get_by_label("Steps", exact=True).fill("3")
            page.click("#form button[type=submit]")
            page.wait_for_selector("article[aria-label='a red circle'] .tile-open")
            with page.expect_download() as download:
                page.locator(".tile-acts button").first.click()
            made = Image.open(download.value.path())
            assert made.size == (16, 16) and json.loads(made.info["request"])["settings"]["steps"] == 3
            page.get_by_label("Prompt").fill("other words")
            page.get_by_role("link", name="History").click()
            with page.expect_file_chooser() as asked:
                page.get_by_role("button", name="Restore from a picture").click()
            asked.value.set_files(download.value.path())
            page.wait_for_function("() => document.querySelector('#form textarea').value == 'a red circle'")
            assert page.get_by_label("Steps", exact=True).input_value() == "3"
            assert page.get_by_label("Seed", exact=True).input_value() == made.info["seed"]
            page.get_by_role("link", name="Training").click()
            page.wait_for_selector(".plot-line")
            assert "step 19" in page.inner_text("#training")
