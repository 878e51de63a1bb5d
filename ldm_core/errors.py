"""All errors caused by a user's input. The command line prints them in a line or two, exit code 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class LDMError(Exception):
    """A mistake fixable by the user: the message names the fault, its place, the allowed values and the remedy."""


class ConfigError(LDMError):
    """A recipe or an override with faulty syntax, or with misfits between its parts; one line per mistake."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ComponentError(LDMError):
    """A component not installed or named twice, or a plugin that does not load."""


class ContractError(ComponentError):
    """A part in breach of its contract in a run: the message names it and gives the contract's words and the
    observation."""


class DataError(LDMError):
    """Images or annotations unreadable, or without the data needed by a part."""


class PromptWarning(DataError, UserWarning):
    """An input of which a conditioner leaves out a part: told as a warning, and an error of the user's kind after
    ``warnings.simplefilter("error", PromptWarning)``."""


class NoSplit(DataError):
    """Data without a split of the requested name, and all right otherwise."""


class StorageError(LDMError):
    """A path or URL impossible to read or write."""


class CheckpointError(LDMError):
    """A damaged checkpoint, or one of another architecture or recipe."""


class UnsafeError(CheckpointError):
    """A file of weights with references to code, or built to deceive its reader."""


class LockError(LDMError):
    """A run's folder held by another run."""


class TrainingError(LDMError):
    """A training run unable to go on: a loss that is not finite, a lost process."""


class NotFiniteError(LDMError):
    """Latents or pictures with NaN or infinity: `seeds` of those; `images`, the finished ones beside them."""

    def __init__(self, text: str, *, seeds: Sequence[int] = (), images: Sequence[Any] = ()) -> None:
        self.seeds, self.images = tuple(seeds), list(images)
        super().__init__(text)


class Interrupted(LDMError):
    """The user or the system asked the run to stop; its results so far are saved."""


def suggest(word: str, known: Iterable[str], *, alike: float = 0.6) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, or an empty string. `alike`: the least ratio of
    difflib."""
    close = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=alike)
    return f"; did you mean '{clean(close[0], 100)}'?" if close else ""


_JOINERS = frozenset("\u200c\u200d\u00a0\u3000\u00ad")
"""Characters not printable by Python's rule, but needed by scripts and emoji."""


def clean(text: object, limit: int = 240) -> str:
    """`text` for one line of a terminal: line ends, escapes and other control characters as backslash escapes, the
    middle left out beyond `limit` characters."""
    said = text if isinstance(text, str) else str(text)
    if len(said) > limit:
        tail = limit // 4
        said = f"{said[: limit - tail - 1]}…{said[-tail:] if tail else ''}"
    if said.isprintable():
        return said
    return "".join(c if c.isprintable() or c in _JOINERS else _escaped(c) for c in said)


def clean_lines(text: str, width: int = 2000, word: int = 240) -> str:
    """`text` of several lines for a terminal: each by :func:`clean`, words beyond `word` characters cut."""
    lines = re.split(r"\r?\n", text)
    return "\n".join(clean(re.sub(rf"\S{{{word + 1},}}", lambda m: clean(m[0], word), line), width) for line in lines)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def quoted(value: object, limit: int = 80) -> str:
    """A value as messages show it: its repr without control characters, of at most `limit` characters, whatever it
    holds."""
    said = _bounded(value, limit, 4)
    return clean(said, limit) if len(said) <= limit else clean(said[: max(1, limit - 3)] + "...", limit + 3)[:limit]


def _bounded(value: object, left: int, depth: int) -> str:
    """About the first `left` characters of the repr, at no greater cost."""
    if isinstance(value, str | bytes):
        return repr(value[: left + 1])
    if isinstance(value, int) and value.bit_length() > 1024:
        return f"a number of {value.bit_length() * 30103 // 100_000 + 1} digits"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        marks = "{}" if isinstance(value, Mapping | set | frozenset) else "()" if isinstance(value, tuple) else "[]"
        if depth == 0:
            return f"{marks[0]}...{marks[1]}"
        said: list[str] = []
        for each in value.items() if isinstance(value, Mapping) else value:
            if left <= 0:
                said.append("...")
                break
            if isinstance(value, Mapping):
                one = f"{_bounded(each[0], left, depth - 1)}: {_bounded(each[1], left, depth - 1)}"
            else:
                one = _bounded(each, left, depth - 1)
            said.append(one)
            left -= len(one) + 2
        return f"{marks[0]}{', '.join(said)}{',' if isinstance(value, tuple) and len(said) == 1 else ''}{marks[1]}"
    try:
        return repr(value)
    except Exception:
        return f"a value of type {type(value).__name__}"
