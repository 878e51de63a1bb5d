"""The page in a real browser, by mouse and by keyboard: what is asked for, what is shown, what is wrong."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from browser import faults
from page_browser import Visitor, chosen, made
from page_server import CLASSES, picture
from page_visitor import visitor as visitor
from PIL import Image


def pixels(url: str) -> np.ndarray:
    """The numbers of a PNG sent as a data URL, which must have one channel."""
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert image.mode == "L"
    return np.asarray(image)


def test_a_prompt_becomes_pictures_step_by_step(visitor: Visitor) -> None:
    with visitor.visit() as page:
        visitor.server.pause = 0.6
        page.get_by_label("Prompt").fill("a red circle")
        page.get_by_label("Not wanted").fill("noise")
        page.click("#form button[type=submit]")
        page.wait_for_function(  # an estimate on the way
            "() => document.querySelector('.tile.waiting img:not([hidden])')"
            " && document.querySelector('.card-progress').textContent.includes('of 4')"
        )
        page.wait_for_selector(".tile-open")
        sent = visitor.server.requests[0]
        assert sent["model"] == "words" and sent["inputs"] == {"caption": "a red circle"}
        assert sent["settings"].keys() == {"negative", "images", "seed"} and sent["settings"]["negative"] == "noise"
        alt = page.locator(".tile-open img").first.get_attribute("alt")
        assert alt == f"Picture 1 of 2: a red circle, seed {sent['settings']['seed']}"
        page.locator(".tile-open").first.click()  # large, with its settings
        assert "trailing" in page.inner_text("dialog .facts")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download with metadata").last.click()
        saved = Image.open(download.value.path())
        assert saved.info["seed"] == str(sent["settings"]["seed"])


def test_a_job_is_followed_after_a_reload(visitor: Visitor) -> None:
    with visitor.visit() as page:
        visitor.server.pause = 0.5
        page.get_by_label("Prompt").fill("a long work")
        page.click("#form button[type=submit]")
        page.wait_for_selector(".tile.waiting img:not([hidden])")
        page.reload()
        visitor.server.pause = 0.0
        page.wait_for_selector("article[aria-label='a long work'] .tile-open")
        assert len(visitor.server.requests) == 1


def test_a_job_is_cancelled(visitor: Visitor) -> None:
    with visitor.visit() as page:
        visitor.server.pause = 0.3
        page.get_by_label("Prompt").fill("a long work")
        page.get_by_label("Steps", exact=True).fill("200")
        page.keyboard.press("Control+Enter")
        page.get_by_role("button", name="Cancel").press("Enter")
        page.wait_for_selector(".card[data-state=cancelled]")
        assert "Use settings" in page.evaluate("document.activeElement.title")  # the keys' place stays in the card
        assert not page.query_selector(".tile-open")


def test_what_is_asked_for_is_in_sight_where_older_pictures_were_looked_at(visitor: Visitor) -> None:
    with visitor.visit() as page:
        page.set_viewport_size({"width": 1100, "height": 420})
        page.get_by_label("Prompt").fill("a first one")
        made(page, visitor.server)
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        assert page.evaluate("scrollY") > 0
        page.get_by_label("Prompt").fill("a second one")
        made(page, visitor.server)
        title = page.locator(".card:first-child").bounding_box()
        assert page.locator(".card:first-child").inner_text().startswith("a second one")
        assert 0 < title["y"] < 200 and page.evaluate("scrollY") == 0


def test_boxes_by_mouse_and_by_keyboard(visitor: Visitor) -> None:
    with visitor.visit() as page:
        chosen(page, "layout")
        place = page.locator(".layout").bounding_box()
        x, y, size = place["x"], place["y"], place["width"]
        page.mouse.move(x + 0.1 * size, y + 0.2 * size)
        page.mouse.down()
        page.mouse.move(x + 0.5 * size, y + 0.6 * size, steps=4)
        page.mouse.up()
        page.mouse.move(x + 0.3 * size, y + 0.4 * size)  # taken in the middle and moved
        page.mouse.down()
        page.mouse.move(x + 0.4 * size, y + 0.4 * size, steps=4)
        page.mouse.up()
        page.get_by_role("button", name="Add a box").focus()
        page.keyboard.press("Enter")  # a second one, without the mouse
        for key in ("ArrowLeft", "ArrowLeft", "Shift+ArrowDown"):
            page.keyboard.press(key)
        page.get_by_placeholder("search 14 classes").fill("gold sq")
        page.get_by_placeholder("search 14 classes").press("Enter")
        first, second = made(page, visitor.server)["inputs"]["boxes"]
    assert first["class"] == CLASSES[0] and np.allclose(first["box"], [0.2, 0.2, 0.4, 0.4], atol=0.02)
    assert second == {"class": "gold square", "box": [0.32, 0.36, 0.3, 0.32]}


def test_boxes_are_resized_deleted_and_limited(visitor: Visitor) -> None:
    with visitor.visit() as page:
        chosen(page, "layout")
        add = page.get_by_role("button", name="Add a box")
        for _ in range(3):
            add.click()
        assert add.is_disabled()  # the model takes three
        page.keyboard.press("Delete")
        page.locator(".box-list").get_by_role("button", name="Delete").first.click()
        handle = page.locator(".box .handle.se").bounding_box()
        page.mouse.move(handle["x"] + 4, handle["y"] + 4)
        page.mouse.down()
        page.mouse.move(handle["x"] + 40, handle["y"] + 4, steps=3)
        page.mouse.up()
        (box,) = made(page, visitor.server)["inputs"]["boxes"]
    assert box["box"][2] > 0.35 and abs(box["box"][3] - 0.3) < 0.02


def test_a_label_map_is_painted(visitor: Visitor) -> None:
    with visitor.visit() as page:
        chosen(page, "maps")
        canvas = page.locator(".surface-canvas")
        place = canvas.bounding_box()
        cell = place["width"] / 32
        page.get_by_role("button", name="Rectangle").click()
        page.mouse.move(place["x"] + 4.5 * cell, place["y"] + 8.5 * cell)
        page.mouse.down()
        page.mouse.move(place["x"] + 9.5 * cell, place["y"] + 15.5 * cell, steps=3)
        page.mouse.up()
        page.get_by_text("orange circle", exact=True).click()
        page.get_by_role("button", name="Brush").click()
        canvas.focus()
        page.keyboard.press("[")
        page.keyboard.press("Space")  # where the last stroke began
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        page.keyboard.press("Control+z")
        sent = pixels(made(page, visitor.server)["inputs"]["segmentation"])
    assert sent.shape == (32, 32) and (sent == 1).sum() + (sent == 2).sum() > 44
    assert sent[12, 6] == 1 and sent[8, 4] == 2 and sent[20, 20] == 0


def test_a_label_map_comes_from_a_file(visitor: Visitor, tmp_path: Path) -> None:
    drawn = np.zeros((16, 16), np.uint8)
    drawn[:, 8:] = 3
    stored = Image.fromarray(drawn, "P")
    stored.putpalette([9, 9, 9, 250, 0, 0, 0, 250, 0, 0, 0, 250])  # its colours mean nothing, its numbers do
    stored.save(tmp_path / "map.png")
    with visitor.visit() as page:
        chosen(page, "maps")
        with page.expect_file_chooser() as asked:
            page.get_by_role("button", name="Take a label map from a file").click()
        asked.value.set_files(tmp_path / "map.png")
        page.wait_for_selector("text=On the map: red circle, orange square")
        sent = pixels(made(page, visitor.server)["inputs"]["segmentation"])
    assert np.array_equal(sent, drawn.repeat(2, 0).repeat(2, 1))


def test_a_mask_is_painted_over_a_picture(visitor: Visitor, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "navy").save(tmp_path / "photo.jpg")
    (tmp_path / "text.png").write_text("no picture")
    with visitor.visit() as page:
        chosen(page, "hole")
        page.click("#form button[type=submit]")
        page.wait_for_selector("text=Give a picture")  # said beside the field, and nothing sent
        page.wait_for_selector(".field-fault:visible")
        for name in ("text.png", "photo.jpg"):
            with page.expect_file_chooser() as asked:
                page.get_by_text("Choose a picture").click()
            asked.value.set_files(tmp_path / name)
            if name == "text.png":
                page.wait_for_selector("text=is no picture that this browser can read")
        place = page.locator(".surface-canvas").bounding_box()
        page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        page.mouse.down()
        page.mouse.move(place["x"] + place["width"] * 0.75, place["y"] + place["height"] / 2, steps=4)
        page.mouse.up()
        sent = made(page, visitor.server)["inputs"]
    hole = pixels(sent["mask"])
    assert hole.shape == (32, 32) and set(np.unique(hole)) == {0, 255} and hole[16, 20] == 255 and hole[16, 8] == 0
    given = Image.open(io.BytesIO(base64.b64decode(sent["image"].partition(",")[2])))
    assert given.size == (32, 32)


def test_a_part_of_a_picture_is_filled_by_a_model_without_masks_of_its_own(visitor: Visitor) -> None:
    """The mask belongs to the picture to begin from; with one, more samplers are offered, and noise is begun from."""
    with visitor.visit() as page:
        page.get_by_label("Prompt").fill("a red circle")
        for part in page.locator("#form details").all():
            part.evaluate("part => part.open = true")
        strength, sampler = page.get_by_label("Strength", exact=True), page.get_by_label("Sampler")
        repaint = sampler.locator("option[value=repaint]")
        assert strength.input_value() == "0.6" and repaint.is_disabled()
        with page.expect_file_chooser() as asked:
            page.get_by_text("Choose a picture").click()
        asked.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture(3)}])
        page.get_by_role("button", name="Rectangle").click()
        page.locator(".surface-canvas").focus()
        for key in ("Space", "Shift+ArrowRight", "ArrowDown", "Space"):
            page.keyboard.press(key)
        assert strength.input_value() == "1" and repaint.is_enabled()
        sampler.select_option("repaint")
        sent = made(page, visitor.server)
        assert sent["settings"].keys() == {"images", "seed", "sampler"} and sent["settings"]["sampler"] == "repaint"
        hole = pixels(sent["inputs"]["mask"])
        assert sent["inputs"]["init_image"].startswith("data:image/png") and (hole == 255).sum() == 18
        page.get_by_label("Prompt").fill("")
        page.get_by_role("button", name="Use settings").click()
        page.wait_for_function("() => document.querySelector('#form textarea').value == 'a red circle'")
        page.wait_for_selector(".toast:has-text('The settings are back')")
        assert sampler.input_value() == "repaint" and repaint.is_enabled()
        page.get_by_role("button", name="Clear").last.click()
        assert strength.input_value() == "0.6" and repaint.is_disabled() and sampler.input_value() == "ddim"
        assert made(page, visitor.server)["inputs"].keys() == {"caption", "init_image"}


def test_a_photo_dropped_anywhere_is_the_picture_to_begin_from(visitor: Visitor) -> None:
    """It holds no settings to bring back, so the form takes it."""
    out = io.BytesIO()
    Image.new("RGB", (60, 40), "navy").save(out, "JPEG")
    with visitor.visit() as page:
        chosen(page, "hole")
        page.evaluate(
            "data => { const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));"
            " const given = new DataTransfer(); given.items.add(new File([bytes], 'a.jpg', {type: 'image/jpeg'}));"
            " document.body.dispatchEvent("
            "new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: given})); }",
            base64.b64encode(out.getvalue()).decode(),
        )
        page.wait_for_selector("text=60 × 40, cut to 32 × 32")
        assert page.evaluate("document.activeElement.closest('[data-key=\"inputs.image\"]') !== null")


def test_wrong_inputs_are_answered_beside_their_fields(visitor: Visitor) -> None:
    with visitor.visit() as page:
        page.wait_for_selector("#form button[type=submit]")
        page.click("#form button[type=submit]")
        prompt = page.get_by_label("Prompt")
        assert prompt.get_attribute("aria-invalid") == "true" and not visitor.server.requests
        assert "Write what" in page.inner_text("[data-key='inputs.caption'] .field-fault")
        prompt.fill("unknown words")  # the server's answer has a place
        page.click("#form button[type=submit]")
        page.wait_for_selector("[data-key='inputs.caption'] .field-fault:has-text('No word of it is known')")
        prompt.fill("words")
        page.get_by_label("Steps", exact=True).fill("13")
        page.click("#form button[type=submit]")
        page.wait_for_selector("[data-key='settings.steps'] .field-fault:has-text('give 12')")
        page.get_by_label("Steps", exact=True).fill("0.5")
        assert "whole number" in page.inner_text("[data-key='settings.steps'] .field-fault")
        chosen(page, "odd")
        page.get_by_label("Brightness").fill("{")
        page.click("#form button[type=submit]")
        page.wait_for_selector("[data-key='inputs.brightness'] .field-fault:has-text('no JSON')")
        page.get_by_label("Brightness").fill("[0.25]")
        assert made(page, visitor.server)["inputs"] == {"brightness": [0.25]}
        chosen(page, "kinds")
        page.get_by_text("shoe").click()
        assert made(page, visitor.server)["inputs"] == {"class_label": 1}


def test_history_restores_and_pictures_are_compared(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "made.png").write_bytes(picture(7))
    with visitor.visit() as page:
        page.get_by_label("Prompt").fill("first words")
        made(page, visitor.server)
        page.get_by_label("Prompt").fill("second words")
        made(page, visitor.server)
        page.locator(".pick input").nth(0).check()
        page.locator(".pick input").nth(2).check()
        page.get_by_role("button", name="Compare", exact=True).click()
        shown = page.inner_text("dialog .columns")
        assert "first words" in shown and "second words" in shown and "trailing" not in shown  # equal in both
        page.keyboard.press("Escape")
        with page.expect_download() as download:
            page.get_by_role("button", name="Sheet").click()
        assert Image.open(download.value.path()).width > 500
        page.reload()  # the browser has kept it
        page.get_by_role("link", name="History").click()
        page.get_by_label("Search the history").fill("first")
        page.locator(".thumb").last.click()
        page.get_by_role("button", name="Use these settings").last.click()
        assert page.get_by_label("Prompt").input_value() == "first words"
        seed = visitor.server.requests[0]["settings"]["seed"]
        assert page.get_by_label("Seed", exact=True).input_value() == str(seed + 1)
        page.get_by_role("link", name="History").click()
        with page.expect_file_chooser() as asked:
            page.get_by_role("button", name="Restore from a picture").click()
        asked.value.set_files(tmp_path / "made.png")
        page.wait_for_function("() => document.querySelector('#form textarea').value == 'from a file'")
        assert page.get_by_label("Seed", exact=True).input_value() == "7"


def test_the_token_is_asked_for_once(visitor: Visitor) -> None:
    with visitor.visit() as page:
        page.wait_for_selector("#form button[type=submit]")
        visitor.server.token = "open sesame"
        page.reload()
        page.get_by_label("Token", exact=True).fill("open sesame")
        page.keyboard.press("Enter")
        page.get_by_label("Prompt").fill("a red circle")
        made(page, visitor.server)


def test_curves_are_read_by_keyboard(visitor: Visitor) -> None:
    with visitor.visit("/#training") as page:
        plot = page.get_by_label("loss over steps")
        plot.focus()
        page.keyboard.press("Home")
        assert "step 0" in page.inner_text(".plot-reading >> nth=0")
        assert page.locator("#training select").input_value() == "young"  # it trains: before the chosen model
        assert "in training; Denoiser, step 390 of 1000" in page.inner_text("#training")
        page.get_by_label("Preview").fill("0")
        page.wait_for_selector("img[alt='Picture of the run: step 100']")
        before = plot.locator("path").first.get_attribute("d")
        page.keyboard.press("Tab")
        page.get_by_role("button", name="Logarithmic").click()
        assert plot.locator("path").first.get_attribute("d") != before


def test_no_serious_fault_of_accessibility(visitor: Visitor) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe is not installed (make browser)")
    with visitor.visit() as page:
        page.wait_for_selector("#form button[type=submit]")
        page.click("#form button[type=submit]")  # with a fault
        assert not faults(page)
        page.get_by_label("Prompt").fill("a red circle")
        made(page, visitor.server)
        page.locator(".pick input").first.check()
        for name in ("layout", "maps", "hole"):
            chosen(page, name)
            if name == "layout":
                page.get_by_role("button", name="Add a box").click()
            for part in page.locator("#form details").all():
                part.evaluate("part => part.open = true")
            assert not faults(page), name
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing sticks out on a phone
        for view, part in (("History", ".thumb"), ("Training", ".plot-line")):
            page.get_by_role("link", name=view).click()
            page.wait_for_selector(part)
            assert not faults(page), view
            assert page.evaluate("document.documentElement.scrollWidth") == 390
