"""The conformance suite of observers: they follow any run, and change nothing of it."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_core import storage
from ldm_core.catalog import Catalog, hookspecs
from ldm_core.contracts import Observer
from ldm_core.data import images
from ldm_core.errors import LDMError
from ldm_core.testing.base import Suite, generators, same
from ldm_core.testing.rules import Rule

_HOOKS = tuple(n for n in vars(hookspecs) if n.startswith("ldm_") and n != "ldm_components")
RECIPE: Mapping[str, Any] = {
    "image_size": [16, 16], "seed": 0, "denoiser": {"use": "unet", "channels": 8}, "conditioners": [],
    "trainer": {"steps": 8, "lr": 1e-3}, "observers": [{"use": "somebody"}],
}  # fmt: skip
"""Plain values as an observer is told them at the start of a run."""
ROWS: Sequence[Mapping[str, Any]] = (
    {"stage": "first_stage", "step": 1, "time": 0.5, "loss": 2.0},
    {"stage": "denoiser", "step": 2, "time": 1.0, "loss": 1.0, "lr": 1e-3},
    {"stage": "denoiser", "step": 4, "time": 2.0, "loss": None, "lr": 1e-3},
    {"stage": "denoiser_validation", "step": 4, "time": 2.5, "val_loss": 0.5, "val_loss_t0": 0.25},
)
"""Rows of metrics.jsonl; a number that is not finite is None there."""


_TOLD = Rule(
    Observer,
    "Told of a run, of whatever end and whatever numbers",
    "raise in no hook: skip what cannot be shown, and refuse a folder in ldm_run_start by an LDMError",
)


class ObserverSuite(Suite):
    """Subclass it, set `component`, and `settings` under which it needs no network and no account."""

    kind = "observer"

    # --------------------------------------------------------------------------------------------- telling

    def told(self, out: str, *, end: str = "done", start: int = 0) -> Any:
        """Tell a fresh observer of a whole run in the folder `out`; a run that goes on has a `start` above 0.

        Three stages: one skipped, a denoiser of 8 steps with a validation and a picture, and samples.
        """
        observer = self.build()
        hook = self._hook(observer)
        hook.ldm_run_start(recipe=copy.deepcopy(RECIPE), out=out)
        hook.ldm_message(text="data: 24 scenes", level="info")
        hook.ldm_stage_end(stage="first_stage", status="skipped")
        hook.ldm_stage_start(stage="denoiser", steps=8, start=start)
        for step in range(start + 1, 9 if end == "done" else 6):
            logs = {"loss": 1 / step, "lr": 1e-3, "images_per_second": 100.0} if step % 2 == 0 else {}
            hook.ldm_step(stage="denoiser", step=step, logs=logs)
            if step == 4:
                hook.ldm_step(stage="denoiser_validation", step=4, logs={"val_loss": 0.5, "val_loss_t0": 0.25})
                hook.ldm_images(stage="denoiser", step=4, name="samples-00000004.png", url=self._picture(out, "a.png"))
        if end == "done":
            hook.ldm_stage_pictures(stage="denoiser", rows=copy.deepcopy(ROWS))
        hook.ldm_stage_end(stage="denoiser", status=end)
        if end == "done":
            hook.ldm_stage_start(stage="samples", steps=3, start=0)
            hook.ldm_step(stage="samples", step=1, logs={})
            hook.ldm_images(stage="samples", step=3, name="samples.png", url=self._picture(out, "samples.png"))
            hook.ldm_stage_end(stage="samples", status="done")
        hook.ldm_message(text="something was left out", level="warning")
        hook.ldm_run_end(status=end)
        return observer

    def _hook(self, observer: Any) -> Any:
        catalog = Catalog()
        catalog.manager.register(observer)
        catalog.manager.check_pending()
        return catalog.manager.hook

    def _picture(self, out: str, name: str) -> str:
        url = storage.join(out, name)
        picture = (np.arange(3 * 16 * 24).reshape(3, 16, 24) % 256).astype(np.uint8)
        storage.atomic_write(url, images.png_bytes(picture))
        return url

    # -------------------------------------------------------------------------------------- standard tests

    @Rule(
        Observer,
        "each marked with ``hookimpl``",
        "mark each hook with @hookimpl, and spell it as ldm_core.catalog.hookspecs does",
    )
    def test_implements_hooks(self) -> None:
        """Each method called ldm_... is marked with hookimpl and is a hook that exists; there is one at least."""
        observer = self.build()
        named = {n for n in dir(observer) if n.startswith("ldm_")}
        assert named, f"{type(observer).__name__} implements no hook"
        assert not named - set(_HOOKS), f"no such hook: {', '.join(sorted(named - set(_HOOKS)))}"
        unmarked = [n for n in sorted(named) if not hasattr(getattr(observer, n), "ldm_core_impl")]
        assert not unmarked, f"without @hookimpl they are never called: {', '.join(unmarked)}"
        self._hook(observer)

    @Rule(Observer, "making it writes no file and starts no thread", "open files and connections in ldm_run_start")
    def test_does_nothing_until_it_is_told(self) -> None:
        """Making it leaves no file and no thread: every process makes one, and only the first is told of the run."""
        threads = threading.active_count()
        with _folder() as here:
            self.build()
            assert not list(here.iterdir()), "making the observer writes files"
        assert threading.active_count() == threads, "making the observer starts a thread"

    @pytest.mark.parametrize("end", ["done", "interrupted", "failed"])
    @_TOLD
    def test_follows_a_run(self, end: str) -> None:
        """A run in a folder, whatever its end; and the same run going on from a checkpoint before that end."""
        with _folder() as here:
            self.told(str(here / "run"), end=end)
            self.told(str(here / "run"), start=2)

    @_TOLD
    def test_follows_a_run_at_a_url(self) -> None:
        """A run on remote storage is followed as well, or refused at its beginning with an error of the user's."""
        with _folder() as here:
            try:
                self.told(f"memory://observer-suite/{here.name}")
            except LDMError as error:
                assert str(error), "the refusal has no message"

    @_TOLD
    def test_takes_numbers_that_are_not_finite(self) -> None:
        """NaN and infinite losses are followed: that is when a user looks."""
        hook = self._hook(self.build())
        with _folder() as here:
            hook.ldm_run_start(recipe=dict(RECIPE), out=str(here))
            hook.ldm_stage_start(stage="denoiser", steps=3, start=0)
            for step, value in enumerate((float("nan"), float("inf"), float("-inf")), 1):
                hook.ldm_step(stage="denoiser", step=step, logs={"loss": value})
            hook.ldm_stage_end(stage="denoiser", status="failed")
            hook.ldm_run_end(status="failed")

    @Rule(
        Observer,
        "PNGs, each by a word of lower-case letters",
        'return {"loss": PNG} from ldm_stage_pictures: the file becomes <stage>_loss.png in the run\'s folder',
    )
    def test_draws_pngs(self) -> None:
        """Pictures of a stage have names for the run's folder, and are PNGs."""
        hook = self._hook(self.build())
        for stage in ("first_stage", "denoiser"):
            for drawn in hook.ldm_stage_pictures(stage=stage, rows=copy.deepcopy(ROWS)):
                for word, data in drawn.items():
                    assert re.fullmatch("[a-z]+", word), f"a picture is called {word!r}"
                    assert data.startswith(b"\x89PNG"), f"picture {word!r} is no PNG"

    @Rule(Observer, "a run may end that never began", "let ldm_run_end do nothing where ldm_run_start was not called")
    def test_an_end_without_a_beginning(self) -> None:
        """A run that fails before it begins still ends."""
        self._hook(self.build()).ldm_run_end(status="failed")

    @Rule(
        Observer,
        "It changes nothing",
        "copy what is kept, draw from a generator of its own, and write to stderr or to the folder",
    )
    def test_changes_nothing(self) -> None:
        """Random generators, signal handlers, its arguments and stdout (where a document may go) stay as they were."""
        handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
        before = generators()
        recipe, logs = copy.deepcopy(dict(RECIPE)), {"loss": 0.5}
        with _folder() as here, _stdout(here / "stdout") as said:
            hook = self._hook(self.build())
            hook.ldm_run_start(recipe=recipe, out=str(here))
            hook.ldm_stage_start(stage="denoiser", steps=2, start=0)
            hook.ldm_step(stage="denoiser", step=1, logs=logs)
            hook.ldm_stage_end(stage="denoiser", status="done")
            hook.ldm_run_end(status="done")
            text = said()
        assert recipe == RECIPE and logs == {"loss": 0.5}, "the observer changes what it is handed"
        assert same(generators(), before), "a global random generator has moved"
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers, "signal handlers changed"
        assert not text, f"the observer writes to stdout: {text[:200]!r}"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder, which is the current one meanwhile."""
    with tempfile.TemporaryDirectory(prefix="ldm-observer-") as name, contextlib.chdir(name):
        yield Path(name)


@contextlib.contextmanager
def _stdout(file: Path) -> Iterator[Any]:
    """A function that gives the text on stdout so far, written by Python or past it (file descriptor 1)."""
    sys.stdout.flush()
    text, saved = io.StringIO(), os.dup(1)
    with file.open("wb") as sink:
        os.dup2(sink.fileno(), 1)
        try:
            with contextlib.redirect_stdout(text):
                yield lambda: text.getvalue() + file.read_text(encoding="utf-8", errors="replace")
        finally:
            os.dup2(saved, 1)
            os.close(saved)
