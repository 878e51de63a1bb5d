"""What a component must refuse, and what it raises instead: told with the contract's line and the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


def must_raise(kind: type[E], call: Callable[[], Any], what: str, rule: str) -> E:
    """The exception of `kind` that `call` raises. AssertionError where it raises none, or another: `what` was asked of
    the component, and `rule`, what its contract says and how to keep to it."""
    try:
        found = call()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what} raises {type(error).__name__} ({error}), not {kind.__name__}; {rule}") from error
    given = "None" if found is None else type(found).__name__
    raise AssertionError(f"{what} raises nothing (it gives {given}), and must raise {kind.__name__}; {rule}")


@contextmanager
def dividing(what: str, rule: str) -> Iterator[None]:
    """Inside, a division by zero is the component's breach of `rule`, seen in `what`."""
    try:
        yield
    except ZeroDivisionError as error:
        raise AssertionError(f"{what}: it divides by zero ({error}); {rule}") from error
