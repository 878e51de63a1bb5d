"""The support of tests with threads: calls run at once, and one that fails is an error of the test."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
from together import together


def test_calls_run_at_once_and_results_keep_their_order() -> None:
    met = threading.Barrier(3)

    def call(number: int) -> tuple[int, int]:
        met.wait(30)  # all three are under way now
        time.sleep(0.02 * (3 - number))
        return number, threading.get_ident()

    made = together(partial(call, i) for i in range(3))
    assert [number for number, _ in made] == [0, 1, 2] and len({thread for _, thread in made}) == 3


def test_the_first_exception_is_raised_when_all_have_ended() -> None:
    failed, ended = threading.Event(), list[int]()

    def call(number: int) -> None:
        if number == 2:
            failed.set()
            raise KeyError("the cause")
        assert failed.wait(30)
        time.sleep(0.1)
        ended.append(number)
        raise ValueError("what came of it")

    with pytest.raises(KeyError, match="the cause"):
        together(partial(call, i) for i in range(3))
    assert sorted(ended) == [0, 1]
