"""Every error that a user's input can cause. The command line prints them in a line or two, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LDMError(Exception):
    """A mistake that the user can fix: the message says what, where, what is allowed and what to do."""


class ConfigError(LDMError):
    """A recipe or an override that does not read, or whose parts do not fit; one line per mistake."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ComponentError(LDMError):
    """A component that is not installed, is named twice, or whose plugin does not load."""


class DataError(LDMError):
    """Images or annotations that cannot be read, or that lack what a part needs."""


class StorageError(LDMError):
    """A path or URL that cannot be read or written."""


class CheckpointError(LDMError):
    """A checkpoint that is damaged, or belongs to another architecture or recipe."""


class UnsafeError(CheckpointError):
    """A file of weights that refers to code, or that is built to deceive its reader."""


class LockError(LDMError):
    """A run's folder that another run holds."""


class TrainingError(LDMError):
    """A training run that cannot go on: a loss that is not finite, a lost process."""


class Interrupted(LDMError):
    """The user or the system asked the run to stop; what was done so far is saved."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
