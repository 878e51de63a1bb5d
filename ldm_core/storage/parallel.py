"""Several requests side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
AT_ONCE = 4


def at_once(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`work` of every item, a few at a time; the first failure keeps those that wait from being started."""
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ldm-storage")
    try:
        futures = [pool.submit(work, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        failed = next((f for f in futures if f.done() and f.exception() is not None), None)
        return [failed.result()] if failed is not None else [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
