"""The suite of observers: a right one passes, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from planted import Mistake, assert_found, faults_of, mistakes

from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.contracts import Site
from ldm_core.testing import ObserverSuite
from ldm_core.testing.running import catalog_of


@attrs.frozen(kw_only=True)
class DiaryConfig:
    """No options."""


class Diary:
    """Counts the steps."""

    def __init__(self, config: DiaryConfig, site: Site) -> None:
        self.seen = 0

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        self.seen += 1


class Unmarked(Diary):
    def ldm_run_end(self, status: str) -> None:
        """Never called."""


class Misspelt(Diary):
    @hookimpl
    def ldm_stage_stop(self, stage: str) -> None:
        """No such hook."""


class Eager(Diary):
    def __init__(self, config: DiaryConfig, site: Site) -> None:
        Path("diary.txt").write_text("dear diary")


class Threaded(Diary):
    def __init__(self, config: DiaryConfig, site: Site) -> None:
        threading.Thread(target=threading.Event().wait, args=(1.0,), daemon=True).start()


class Talker(Diary):
    @hookimpl
    def ldm_run_start(self, recipe: Any, out: str) -> None:
        print("hello")


class Meddler(Diary):
    @hookimpl
    def ldm_run_start(self, recipe: Any, out: str) -> None:
        recipe["seed"] = 1


class Gambler(Diary):
    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        random.random()


class Whole(Diary):
    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        int(logs.get("loss", 0))


class NeedsBeginning(Diary):
    out: str

    @hookimpl
    def ldm_run_end(self, status: str) -> None:
        Path(self.out)


class ClosesWhatWasNotOpened(Diary):
    """Writes at each step into a file that a stage that goes on never opens."""

    @hookimpl
    def ldm_stage_start(self, stage: str, steps: int, start: int) -> None:
        if start == 0:
            self.lines: list[int] = []

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        self.lines.append(step)


class LocalFoldersOnly(Diary):
    @hookimpl
    def ldm_run_start(self, recipe: Any, out: str) -> None:
        Path(out).mkdir(parents=True, exist_ok=False)


class TakesTheSignals(Diary):
    @hookimpl
    def ldm_run_start(self, recipe: Any, out: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class DropsLogs(Diary):
    """Takes out what it has shown."""

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Any) -> None:
        logs.clear()


class DrawsFiles(Diary):
    """Names its picture as the file."""

    @hookimpl
    def ldm_stage_pictures(self, stage: str) -> Mapping[str, bytes]:
        return {f"{stage}_steps.png": b"\x89PNG\r\n"}


class DrawsText(Diary):
    @hookimpl
    def ldm_stage_pictures(self, stage: str) -> Mapping[str, bytes]:
        return {"steps": b"<svg/>"}


class Silent:
    """Implements nothing."""

    def __init__(self, config: DiaryConfig, site: Site) -> None:
        pass


def test_a_right_one_passes() -> None:
    assert faults_of(ObserverSuite, Diary, DiaryConfig) == {}


@pytest.fixture
def _as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # where the one that writes when it is made may do so
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@mistakes(
    Mistake(Unmarked, "test_implements_hooks", "without @hookimpl they are never called: ldm_run_end"),
    Mistake(Misspelt, "test_implements_hooks", "no such hook: ldm_stage_stop"),
    Mistake(Silent, "test_implements_hooks", "Silent implements no hook"),
    Mistake(Eager, "test_does_nothing_until_it_is_told", "making the observer writes files"),
    Mistake(Threaded, "test_does_nothing_until_it_is_told", "making the observer starts a thread"),
    Mistake(ClosesWhatWasNotOpened, "test_follows_a_run", "lines"),
    Mistake(LocalFoldersOnly, "test_follows_a_run", "exists"),
    Mistake(DrawsFiles, "test_draws_pngs", "a picture is called 'first_stage_steps.png'"),
    Mistake(DrawsText, "test_draws_pngs", "picture 'steps' is no PNG"),
    Mistake(Talker, "test_changes_nothing", "stdout: 'hello"),
    Mistake(Meddler, "test_changes_nothing", "changes what it is handed"),
    Mistake(DropsLogs, "test_changes_nothing", "changes what it is handed"),
    Mistake(Gambler, "test_changes_nothing", "a global random generator has moved"),
    Mistake(TakesTheSignals, "test_changes_nothing", "signal handlers changed"),
    Mistake(Whole, "test_takes_numbers_that_are_not_finite", "cannot convert"),
    Mistake(NeedsBeginning, "test_an_end_without_a_beginning", "out"),
)
def test_a_mistake_is_found(mistake: Mistake, _as_before: None) -> None:
    assert_found(ObserverSuite, mistake, DiaryConfig)


def test_the_tale_is_told_once_each_step() -> None:
    catalog = catalog_of("observer", "toy", DiaryConfig, Diary)
    suite = type("Mine", (ObserverSuite,), {"component": "toy", "catalog": catalog})
    assert suite().told("memory://kit-observer").seen == 8 + 1 + 1, "the denoiser's, its validation, the samples'"
