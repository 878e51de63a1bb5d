"""The page in a real browser: what was written stays after a Reload, and keys keep their place after Delete."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from page_browser import Visitor, chosen, made
from page_server import picture
from page_visitor import visitor as visitor
from test_served_page import pixels

FOCUS = "document.activeElement.closest('.card')?.getAttribute('aria-label') ?? document.activeElement.id"


def again(page: Any) -> None:
    """Reload, until the form of the model is there."""
    page.reload()
    page.wait_for_selector("#form button[type=submit]")


def kept(page: Any, model: str) -> Any:
    return json.loads(page.evaluate("name => sessionStorage.getItem(name)", f"ldm-draft:{model}") or "null")


def leave(page: Any, model: str, told: str) -> None:
    """Let the browser hold `told` as the draft of a model."""
    page.evaluate("([name, told]) => sessionStorage.setItem(name, told)", [f"ldm-draft:{model}", told])


def test_what_was_written_is_there_after_a_reload(visitor: Visitor) -> None:
    """Letter by letter, of each model, with the settings that were chosen and the seed that was held."""
    with visitor.visit() as page:
        prompt, steps = page.get_by_label("Prompt"), page.get_by_label("Steps", exact=True)
        prompt.press_sequentially("a red circle on ")
        page.get_by_label("Not wanted").fill("noise")
        steps.fill("7")
        page.get_by_label("Seed", exact=True).fill("42")
        chosen(page, "odd")
        page.get_by_label("Brightness").fill('{"half": ')  # not finished
        chosen(page, "words2")
        page.get_by_label("Prompt").fill("of another model")
        again(page)
        assert page.locator("#model").input_value() == "words2" and prompt.input_value() == "of another model"
        chosen(page, "odd")
        assert page.get_by_label("Brightness").input_value() == '{"half": '
        assert not page.query_selector(".field-fault:visible")  # of what nobody has sent
        chosen(page, "words")
        assert prompt.input_value() == "a red circle on " and steps.input_value() == "7"
        sent = made(page, visitor.server)
        assert sent["inputs"] == {"caption": "a red circle on"}
        assert sent["settings"] == {"images": 2, "negative": "noise", "steps": 7, "seed": 42}
        prompt.fill("")
        page.get_by_role("button", name="Back to the model's own settings").click()
        page.wait_for_function("() => sessionStorage.getItem('ldm-draft:words') === null")
        again(page)
        assert prompt.input_value() == "" and steps.input_value() == "4"


def test_what_was_drawn_is_there_after_a_reload(visitor: Visitor) -> None:
    with visitor.visit() as page:
        chosen(page, "layout")
        page.get_by_role("button", name="Add a box").click()
        chosen(page, "kinds")
        page.get_by_text("shoe").click()
        chosen(page, "maps")
        page.get_by_role("button", name="Rectangle").click()
        page.locator(".surface-canvas").focus()
        for key in ("Space", "Shift+ArrowRight", "ArrowDown", "Space"):
            page.keyboard.press(key)
        chosen(page, "hole")
        with page.expect_file_chooser() as asked:
            page.get_by_text("Choose a picture").click()
        asked.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture(3)}])
        page.locator(".surface-canvas").focus()
        page.keyboard.press("Space")
        page.wait_for_function("() => sessionStorage.getItem('ldm-draft:hole')?.includes('mask')")
        again(page)
        hole = made(page, visitor.server)["inputs"]
        assert hole["image"].startswith("data:image/png") and (pixels(hole["mask"]) == 255).any()
        chosen(page, "maps")
        assert np.count_nonzero(pixels(made(page, visitor.server)["inputs"]["segmentation"])) == 18
        chosen(page, "layout")
        (box,) = made(page, visitor.server)["inputs"]["boxes"]
        assert box["box"] == [0.3, 0.3, 0.3, 0.3]
        chosen(page, "kinds")
        assert made(page, visitor.server)["inputs"] == {"class_label": 1}


STRANGE = [
    "no JSON",
    "[1, 2]",
    "null",
    '{"inputs": 3, "typed": [], "settings": "x", "preset": {}}',
    '{"inputs": {"caption": {"a": 1}, "boxes": [null], "segmentation": "data:,%%", "mask": "!", "image": "data:,AAAA",'
    ' "init_image": "?", "class_label": {"a": 1}}, "settings": {"steps": "many", "guidance": [], "size": 3,'
    ' "seed": {}, "sampler": "no such", "images": null, "negative": {}}}',
    '{"inputs": {"boxes": [{"class": 99, "box": [0, 0, 1, 1]}, {"class": 0, "box": [0, 0, "1", null]}],'
    ' "segmentation": [[]], "class_label": 99, "init_image": 5}, "typed": {"caption": 5, "boxes": "x"},'
    ' "settings": {"steps": 100000, "size": [3, 5], "seed": -1, "images": 0.5}}',
]


def test_a_draft_of_anybody_else_breaks_nothing(visitor: Visitor) -> None:
    """An older page, or another server of this address, may have left it: the form is then as it is without."""
    names = ["words", "layout", "maps", "hole", "kinds", "odd"]
    with visitor.visit() as page:
        page.wait_for_selector("#form button[type=submit]")
        for told in STRANGE:
            for name in names:
                leave(page, name, told)
            again(page)
            for name in names:
                chosen(page, name)
                page.wait_for_timeout(20)
                assert not page.query_selector(".field-fault:visible"), (name, told)
            chosen(page, "words")
            page.get_by_label("Prompt").fill("words")
            sent = made(page, visitor.server)
            assert sent["inputs"] == {"caption": "words"} and sent["settings"].keys() == {"images", "seed"}


def test_markup_in_a_draft_is_text(visitor: Visitor) -> None:
    told = "<img src=x onerror=\"document.title='broken'\">"
    with visitor.visit() as page:
        page.wait_for_selector("#form button[type=submit]")
        leave(page, "words", json.dumps({"typed": {"caption": told}, "inputs": {"__proto__": {"caption": told}}}))
        again(page)
        assert page.get_by_label("Prompt").input_value() == told
        made(page, visitor.server)
        assert page.locator(".card h3").inner_text() == told and "broken" not in page.title()


FILL = """() => {
  sessionStorage.setItem("room", "x".repeat(600));
  for (let room = 1 << 24; room; room >>= 1)
    for (let n = 0; ; n++)
      try { sessionStorage.setItem(`another page ${room} ${n}`, "x".repeat(room)); } catch { break; }
  sessionStorage.removeItem("room");
}"""


def test_pictures_stay_out_where_the_browser_keeps_no_more_than_text(visitor: Visitor) -> None:
    with visitor.visit() as page:
        page.get_by_label("Prompt").fill("words")
        page.wait_for_function("() => sessionStorage.getItem('ldm-draft:words')")
        page.evaluate(FILL)
        page.get_by_text("Begin from a picture").click()
        with page.expect_file_chooser() as asked:
            page.get_by_text("Choose a picture").click()
        asked.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture(3, 0.5)}])
        page.wait_for_selector(".drop-picture:visible")
        page.get_by_label("Prompt").fill("words and more words")
        page.wait_for_function("() => sessionStorage.getItem('ldm-draft:words').includes('and more')")
        assert kept(page, "words")["inputs"] == {}
        again(page)
        assert page.get_by_label("Prompt").input_value() == "words and more words"


def test_prompts_of_a_blind_test_stay(visitor: Visitor) -> None:
    with visitor.visit("/compare") as page:
        page.get_by_label("Prompts").fill("a red circle\n\n a blue")
        page.reload()
        assert page.get_by_label("Prompts").input_value() == "a red circle\n\n a blue"


def test_keys_keep_their_place_after_delete(visitor: Visitor) -> None:
    """At the card below, above where there is none, and at the stage once all are gone."""
    with visitor.visit() as page:
        for words in ("first", "second", "third"):
            page.get_by_label("Prompt").fill(words)
            made(page, visitor.server)
        for words, left in (("second", "first"), ("first", "third"), ("third", "stage")):
            page.locator(f"article[aria-label='{words}']").get_by_role("button", name="Delete").press("Enter")
            page.wait_for_selector(f"article[aria-label='{words}']", state="detached")
            assert page.evaluate(FOCUS) == left
        page.get_by_role("link", name="History").click()
        page.wait_for_selector("text=Pictures that you make are kept here.")


def test_keys_keep_their_place_when_the_history_is_deleted(visitor: Visitor) -> None:
    with visitor.visit() as page:
        page.get_by_label("Prompt").fill("words")
        made(page, visitor.server)
        page.get_by_role("link", name="History").click()
        page.get_by_role("button", name="Delete all").press("Enter")
        page.get_by_role("dialog").get_by_role("button", name="Delete all").press("Enter")
        page.wait_for_selector(".thumb", state="detached")
        assert page.evaluate("document.activeElement.textContent") == "Delete all"
        assert page.evaluate("!document.querySelector('dialog')")


def test_picked_pictures_lie_over_no_curves(visitor: Visitor) -> None:
    with visitor.visit() as page:
        page.get_by_label("Prompt").fill("words")
        made(page, visitor.server)
        for each in page.locator(".pick input").all():
            each.check()
        tray = page.locator(".tray")
        assert tray.is_visible() and "2 picked" in tray.inner_text()
        for view, seen in (("Training", False), ("History", True), ("Create", True)):
            page.get_by_role("link", name=view).click()
            assert tray.is_visible() == seen, view
        tray.get_by_role("button", name="Compare").click()
        assert page.locator("dialog .columns").is_visible()
