"""One thread of torch for a test module that asks for it: sums have one order, and small networks are quicker.

A module imports one of the two: ``from one_thread import each_module as _one_thread  # noqa: F401``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread within, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def each_module() -> Iterator[None]:
    """One thread while the module's tests run, and while its other fixtures are made."""
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def each_test() -> Iterator[None]:
    """One thread for each test of the module."""
    with one_thread():
        yield
