"""A rule that the kit holds components to: a line of a contract, quoted from its docstring, and how to keep to it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs

Test = TypeVar("Test", bound=Callable[..., Any])
Refusal = TypeVar("Refusal", bound=BaseException)

_MARK = "contract ("
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z`:*(])")


@attrs.frozen
class Rule:
    """The line of a contract that holds `phrase`, and the `fix` for a component that breaks it.

    `contract` is the class, method or module with the line in its docstring. As a decorator of a standard test, a rule
    adds both to any exception of the test.
    """

    contract: Any
    phrase: str
    fix: str

    @property
    def name(self) -> str:
        """The contract as a message names it: ``Denoiser.forward``."""
        named: Any = self.contract.fget if isinstance(self.contract, property) else self.contract
        return getattr(named, "__qualname__", "") or str(named.__name__)

    @property
    def line(self) -> str:
        """The contract's own sentence; LookupError if its docstring no longer has it."""
        for paragraph in _paragraphs(inspect.getdoc(self.contract) or ""):
            for sentence in _SENTENCE.split(paragraph):
                if self.phrase in sentence:
                    return sentence
        raise LookupError(f"the docstring of {self.name} has no sentence with {self.phrase!r}")

    def quote(self, error: BaseException) -> None:
        """Add the contract's line and the fix to `error`, unless a rule has been added before."""
        if not any(note.lstrip().startswith(_MARK) for note in getattr(error, "__notes__", ())):
            error.add_note(f'  {_MARK}{self.name}): "{self.line}"')
            error.add_note(f"  fix: {self.fix}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Add this rule to any exception inside."""
        try:
            yield
        except Exception as error:
            self.quote(error)
            raise

    def __call__(self, test: Test) -> Test:
        """`test`, with the rule added to its exceptions."""

        @functools.wraps(test)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            with self.held():
                return test(*args, **kwargs)

        wrapped.rule = self  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]


def must_raise(kind: type[Refusal], call: Callable[[], Any], asked: str) -> Refusal:
    """Call `call`, and return its exception of `kind`; AssertionError if it raises none, or another."""
    try:
        found = call()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"{asked} raises {type(error).__name__} ({error}), not {kind.__name__}") from error
    given = "None" if found is None else type(found).__name__
    raise AssertionError(f"{asked} raises nothing (it gives {given}), and must raise {kind.__name__}")


def message(error: BaseException) -> str:
    """An exception with its notes, as a reader of a test's output sees it."""
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and list items, each on one line."""
    for block in re.split(r"\n\s*\n|\n(?=\s*\* )", text):
        yield " ".join(block.split()).removeprefix("* ")
