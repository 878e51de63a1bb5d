"""Garbage collection that leaves alone what stays to the end, and files without a wait for the disk, for all tests of a
run that begins with this folder, as `make test` does."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator

import pytest
import unsynced


def pytest_configure() -> None:
    """Tests kill processes and no machine: what the system was handed stays."""
    unsynced.begin()


class Heap:
    """Takes what is alive between two files of tests for what stays: modules, caches, compiled networks.

    Late in a whole run that is some four million objects, and a collection that looks through them takes over a second.
    """

    EVERY = 10.0
    """Seconds of processor time, at least, from one time to the next."""

    def __init__(self) -> None:
        self._last = time.process_time()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """After the last test of a file, whose fixtures have gone."""
        done = yield
        if nextitem is not None and nextitem.path != item.path and time.process_time() - self._last > self.EVERY:
            gc.collect()
            gc.freeze()
            self._last = time.process_time()
        return done


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Modules and tests stay to the end: none of them is garbage, and none is looked through again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        gc.enable()
        session.config.pluginmanager.register(Heap())  # for tests of every folder: a conftest's hooks see its own alone
