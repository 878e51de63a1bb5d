"""A training watched live in the browser, until its model is ready; and a model that is trained on while it is used."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import chromium, faults
from header_files import PLAIN, write_run
from page_browser import Visitor
from page_server import PageServer
from serve_process import running, until
from training_runs import Watch, go

from ldm_core import hookimpl
from ldm_core.training.folder import metrics

LOOK = 6_000  # milliseconds: later than the page's next look at a training


class Gated(Watch):
    """Holds a training back behind the steps that it may go."""

    def __init__(self, upto: int) -> None:
        super().__init__()
        self.upto, self.step = upto, 0
        self._moved = threading.Condition()

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        if stage != "denoiser":
            return
        with self._moved:
            self.step = step
            self._moved.wait_for(lambda: step < self.upto, timeout=60)

    def let(self, upto: int) -> None:
        """Let it go on, until the step `upto` is written down."""
        self.open(upto)
        until(lambda: self.step >= upto)

    def open(self, upto: int = 1000) -> None:
        """Let it go on."""
        with self._moved:
            self.upto = upto
            self._moved.notify_all()


@contextmanager
def training(out: Path, gate: Gated) -> Iterator[threading.Thread]:
    """A tiny training of twelve steps in a thread, with a preview each three."""
    steps = ("trainer.steps=12", "trainer.preview_every=3")
    made = threading.Thread(target=go, args=(out, *steps), kwargs={"watch": gate}, daemon=True)
    made.start()
    until(lambda: gate.step >= gate.upto, 60)
    yield made
    gate.open()
    made.join(60)


def test_a_training_is_watched_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "WRITE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(metrics, "_SHARE", math.inf)  # a slow disk puts nothing off
    gate, out = Gated(4), tmp_path / "young"
    with chromium() as browser, training(out, gate) as thread, running([out]) as served:
        visitor = Visitor(browser, PageServer(), served.url.rstrip("/"))
        visitor.page.clock.install()
        with visitor.visit() as page:
            page.wait_for_selector("#form:has-text('No model is ready yet')")
            assert page.locator("#model").input_value() == "young"
            page.get_by_role("link", name="Watch its training").click()
            page.clock.run_for(LOOK)
            page.wait_for_selector("#training header:has-text('in training; Denoiser, step 4 of 12')")
            path = page.get_by_label("loss over steps").locator("path.plot-line")
            before = path.get_attribute("d")
            page.wait_for_selector("img[alt='Picture of the run: samples, step 3']")
            gate.let(8)
            page.clock.run_for(LOOK)
            page.wait_for_selector("#training header:has-text('step 8 of 12; about')")  # with the time left
            assert path.get_attribute("d").count("L") > before.count("L")  # type: ignore[union-attr]
            page.wait_for_selector("img[alt='Picture of the run: samples, step 6']")  # the newest one
            page.get_by_label("Preview").fill("1")
            page.wait_for_selector("img[alt='Picture of the run: samples, step 3']")
            gate.open()
            thread.join(60)
            page.clock.run_for(LOOK)
            page.wait_for_selector("#training header:has-text('finished; Denoiser, step 12 of 12')")
            page.wait_for_selector(".toast:has-text('young: trained, and ready to make pictures.')")
            assert page.locator("img.preview").get_attribute("alt") == "Picture of the run: samples, step 3"  # held
            page.get_by_role("link", name="Create").click()
            page.get_by_label("Steps", exact=True).fill("2")
            page.click("#form button[type=submit]")
            page.wait_for_selector(".tile-open")


def test_a_model_that_was_trained_on_says_so(tmp_path: Path) -> None:
    run = tmp_path / "words"
    write_run(run)
    with chromium() as browser, running([run]) as served:
        visitor = Visitor(browser, PageServer(), served.url.rstrip("/"))
        visitor.page.clock.install()
        with visitor.visit() as page:
            page.get_by_label("Prompt").fill("a red circle")
            page.get_by_label("Pictures", exact=True).fill("3")
            steps = page.get_by_label("Steps", exact=True)
            assert steps.input_value() == str(PLAIN["sample"]["steps"])
            page.clock.run_for(21_000)
            assert not page.locator("#notice").inner_text()
            write_run(run, {**PLAIN, "sample": {"steps": 7, "images": 1}})
            page.clock.run_for(21_000)
            page.wait_for_selector("#notice:has-text('words was trained on.')")
            if pytest.importorskip("axe_playwright_python"):
                assert not faults(page)
            page.get_by_role("button", name="Reload").click()
            page.wait_for_selector("#form button:has-text('Make 3 pictures')")
            assert steps.input_value() == "7"  # the new model's own; what was written stays
            assert page.get_by_label("Prompt").input_value() == "a red circle"
            assert not page.locator("#notice").inner_text()
