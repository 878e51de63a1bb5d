"""The page before the real server, with random weights: a picture is made, saved, and brings its prompt back."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from browser import chromium
from header_files import PLAIN, write_run
from page_browser import Visitor, chosen
from page_server import PageServer
from PIL import Image
from serve_process import running

MAPS: dict[str, Any] = {**PLAIN, "conditioners": [{"use": "semantic_map", "classes": 3, "dropout": 0.1}]}
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


def drawn(page: Any, *points: tuple[float, float]) -> None:
    """A stroke of a finger."""
    fingers = page.context.new_cdp_session(page)
    fingers.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for number, (x, y) in enumerate(points):
        kind = "touchMove" if number else "touchStart"
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    fingers.detach()


def test_a_label_map_is_painted_by_a_finger_on_a_phone(tmp_path: Path) -> None:
    """And becomes a picture of the real server; the page stays where it is under the finger."""
    write_run(tmp_path / "maps", MAPS)
    with chromium() as browser, running([tmp_path / "maps"]) as served:
        visitor = Visitor(browser, PageServer(), served.url.rstrip("/"))
        with visitor.visit() as page:
            page.set_viewport_size({"width": 390, "height": 844})
            canvas = page.get_by_label("Label map, 16 by 16 pixels")
            page.get_by_role("button", name="Rectangle").first.click()
            canvas.evaluate("each => each.scrollIntoView({block: 'center'})")
            place, before = canvas.bounding_box(), page.evaluate("scrollY")
            cell = place["width"] / 16
            at = [(place["x"] + x * cell, place["y"] + y * cell) for x, y in ((2.5, 3.5), (5.0, 6.0), (9.5, 10.5))]
            drawn(page, *at)
            assert page.evaluate("scrollY") == before
            assert place["x"] >= 0 and place["x"] + place["width"] <= 390
            with page.expect_request(lambda request: "/v1/sample" in request.url) as asked:
                page.click("#form button[type=submit]")
            sent = asked.value.post_data_json["inputs"]["segmentation"].partition(",")[2]
            page.wait_for_selector(".card:first-child .tile-open")
            assert page.evaluate("document.documentElement.scrollWidth") == 390
    painted = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent))))
    expected = np.zeros((16, 16), np.uint8)
    expected[3:11, 2:10] = 1
    assert np.array_equal(painted, expected)
