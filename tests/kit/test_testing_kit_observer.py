"""The kit's suite of observers, put to the test: a right toy passes, one with a fault fails the test for it."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.contracts import Site
from ldm_core.testing import ObserverSuite
from ldm_core.testing.running import catalog_of, failures


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


def faults_of(make: Any) -> dict[str, str]:
    catalog = catalog_of("observer", "toy", DiaryConfig, make)
    return failures(type("Mine", (ObserverSuite,), {"component": "toy", "catalog": catalog}))


def test_a_right_one_passes() -> None:
    assert faults_of(Diary) == {}


@pytest.mark.parametrize(
    "faulty, test, said",
    [
        (Unmarked, "test_implements_hooks", "without @hookimpl"),
        (Misspelt, "test_implements_hooks", "no such hook: ldm_stage_stop"),
        (Eager, "test_does_nothing_until_it_is_told", "writes files"),
        (Threaded, "test_does_nothing_until_it_is_told", "starts a thread"),
        (Talker, "test_changes_nothing", "stdout: 'hello"),
        (Meddler, "test_changes_nothing", "changes what it is handed"),
        (Gambler, "test_changes_nothing", "a global random generator has moved"),
        (Whole, "test_takes_numbers_that_are_not_finite", "cannot convert"),
        (NeedsBeginning, "test_an_end_without_a_beginning", "out"),
    ],
)
def test_a_fault_fails_its_test(
    faulty: Any, test: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the one that writes when it is made may do so
    found = faults_of(faulty)
    assert test in found, found
    assert said in found[test]


def test_the_tale_is_told_once_each_step() -> None:
    catalog = catalog_of("observer", "toy", DiaryConfig, Diary)
    suite = type("Mine", (ObserverSuite,), {"component": "toy", "catalog": catalog})
    assert suite().told("memory://kit-observer").seen == 8 + 1 + 1, "the denoiser's, its validation, the samples'"
