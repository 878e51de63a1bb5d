"""The blind comparison in a real browser: pairs in random order, answers by key, the share and the CSV."""

from __future__ import annotations

import csv
import io
import math
from importlib.util import find_spec
from pathlib import Path

from browser import faults
from page_browser import Visitor
from page_visitor import visitor as visitor


def percent(share: float) -> int:
    """Rounded as the page does, halves upward."""
    return math.floor(100 * share + 0.5)


def wilson(share: float, count: int) -> tuple[int, int]:
    """The bounds of the interval in percent, by its formula."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return percent(middle - half), percent(middle + half)


def test_pairs_are_answered_by_keys(visitor: Visitor) -> None:
    with visitor.visit("/compare") as page:
        page.get_by_label("Prompts").fill("a red circle\n\na blue circle\n")
        page.get_by_label("Pairs of each").fill("5")
        page.wait_for_selector("text=10 pairs")
        page.get_by_role("button", name="Begin").click()
        ready = ".trial:not(.loading) .answer:not(:disabled)"
        for number in range(1, 11):
            page.wait_for_selector(f"text=Pair {number} of 10")
            page.wait_for_selector(ready)
            if number == 1:  # nothing tells the sides apart
                assert "words2" not in page.inner_text("main") and "steps" not in page.inner_text("main")
                assert find_spec("axe_playwright_python") is None or not faults(page)
            if number == 3:  # taken back, and answered again
                page.keyboard.press("ArrowLeft")
                page.wait_for_selector("text=Pair 4 of 10")
                page.get_by_role("button", name="Undo").click()
                page.wait_for_selector("text=Pair 3 of 10")
                page.wait_for_selector(ready)
            page.keyboard.press("ArrowDown" if number > 8 else "ArrowLeft")
        page.wait_for_selector(".outcome")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download as CSV").click()
        said = page.inner_text(".outcome")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    assert len(rows) == 10 and [row["choice"] for row in rows] == ["left"] * 8 + ["tie"] * 2
    assert all({row["left"], row["right"]} == {"words", "words2"} for row in rows)
    assert all(row["preferred"] == row["left"] for row in rows[:8]) and rows[9]["preferred"] == "tie"
    assert sorted(row["input"] for row in rows) == ["a blue circle"] * 5 + ["a red circle"] * 5
    share = sum(row["preferred"] == "words" for row in rows) / 8  # of the decided ones
    low, high = wilson(share, 8)
    assert f"words: {percent(share)} %" in said and f"interval {low} % to {high} %" in said
    both: dict[int, set[str]] = {}
    for sent in visitor.server.requests:  # of each seed, one picture a side
        both.setdefault(sent["settings"]["seed"], set()).add(sent["model"])
    assert list(both.values()) == [{"words", "words2"}] * 10


def test_a_test_is_gone_on_with_and_models_must_fit(visitor: Visitor) -> None:
    with visitor.visit("/compare") as page:
        page.get_by_label("Model").nth(1).select_option("layout")
        page.wait_for_selector("text=do not read the same: caption, boxes")
        page.get_by_label("Model").nth(1).select_option("words")
        page.get_by_label("Prompts").fill("a red circle")
        page.get_by_role("button", name="Begin").click()
        page.wait_for_selector("text=both sides are the same")
        page.get_by_label("Steps").nth(1).fill("2")  # one model against itself with fewer steps
        page.get_by_role("button", name="Begin").click()
        page.wait_for_selector(".trial:not(.loading) .answer:not(:disabled)")
        page.keyboard.press("2")
        page.wait_for_selector("text=Pair 2 of 4")
        page.reload()
        page.wait_for_selector("text=was begun: 1 of 4 pairs")
        page.get_by_role("button", name="Go on with it").click()
        page.wait_for_selector("text=Pair 2 of 4")


def test_judges_see_the_drawn_inputs_that_were_kept(visitor: Visitor) -> None:
    """Two layouts of one box each; the judge sees the one that a pair was made from."""
    with visitor.visit("/compare") as page:
        for side in (0, 1):
            page.get_by_label("Model").nth(side).select_option("layout")
        page.get_by_label("Steps").nth(1).fill("2")
        keep = page.get_by_role("button", name="Keep it, and make another")
        keep.click()
        page.wait_for_selector("text=There is nothing to keep yet")
        for name in ("gold square", "blue circle"):
            page.get_by_role("button", name="Add a box").click()
            page.get_by_placeholder("search 14 classes").fill(name)
            page.get_by_placeholder("search 14 classes").press("Enter")
            if name == "gold square":
                keep.click()
                page.wait_for_selector(".kept-inputs li:has-text('gold square')")
                assert not page.locator(".box").count()  # the next one begins empty
        page.get_by_label("Pairs of each").fill("1")
        page.wait_for_selector("text=2 pairs")
        assert find_spec("axe_playwright_python") is None or not faults(page)
        page.get_by_role("button", name="Begin").click()
        shown = []
        for number in (1, 2):
            page.wait_for_selector(f"text=Pair {number} of 2")
            page.wait_for_selector(".trial:not(.loading) .answer:not(:disabled)")
            shown.append((page.inner_text(".trial-words"), page.get_attribute(".trial-given img", "src")))
            page.keyboard.press("ArrowLeft")
        page.wait_for_selector(".outcome")
        assert {words for words, _ in shown} == {"gold square", "blue circle"} and shown[0][1] != shown[1][1]
        assert {each["inputs"]["boxes"][0]["class"] for each in visitor.server.requests} == {
            words for words, _ in shown
        }
        page.get_by_role("button", name="Another test").click()
        assert page.get_by_label("Steps").nth(1).input_value() == "2"  # as it was left
        page.get_by_text("Samples of the runs").click()
        assert page.get_by_label("Model").nth(1).input_value() != "layout"  # a run has one set of samples


def test_samples_of_the_runs_are_compared(visitor: Visitor) -> None:
    with visitor.visit("/compare") as page:
        page.get_by_text("Samples of the runs").click()
        page.get_by_label("Pairs at most").fill("3")
        page.get_by_role("button", name="Begin").click()
        for number in range(1, 4):
            page.wait_for_selector(f"text=Pair {number} of 3")
            page.wait_for_selector(".trial:not(.loading) .answer:not(:disabled)")
            assert page.inner_text(".trial-words") == f"prompt {number - 1}"
            page.keyboard.press("ArrowLeft")
        page.wait_for_selector(".outcome")
        assert "words: 67 %" in page.inner_text(".outcome")  # the second was on the left once
    assert visitor.server.votes == ["left"] * 3
