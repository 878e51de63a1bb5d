"""Calls that run at once, for tests of what threads share: one that fails fails the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


def together(calls: Iterable[Callable[[], T]]) -> list[T]:
    """The results of the calls, in their order: each runs in a thread of its own, and all begin at once.

    The first exception of a call is raised again here, once all calls have ended.
    """
    every = list(calls)
    start = Barrier(len(every))

    def run(call: Callable[[], T]) -> T:
        start.wait(60)
        return call()

    with ThreadPoolExecutor(len(every)) as pool:
        made = [pool.submit(run, call) for call in every]
        ended, _ = wait(made, return_when=FIRST_EXCEPTION)
        for each in ended:
            each.result()
    return [each.result() for each in made]
