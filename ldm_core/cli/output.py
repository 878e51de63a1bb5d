"""What a command hands back: text, or with ``--json`` one document on stdout and everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ldm_core.errors import ConfigError, Interrupted, LDMError


@contextlib.contextmanager
def reporting(as_json: bool) -> Iterator[dict[str, Any]]:
    """A mapping to fill. With `as_json` it is printed at the end, alone on stdout, also after a user's mistake
    (``{"status": "error", "problems": [...]}``); without, it is dropped. Errors go on in both cases.
    """
    document: dict[str, Any] = {}
    if not as_json:
        yield document
        return
    try:
        with _stdout_to_stderr():
            yield document
    except LDMError as error:
        print_problems(error)
        raise
    print_json(document)


def print_problems(error: LDMError) -> None:
    """What went wrong, as the one JSON document on stdout."""
    status = "interrupted" if isinstance(error, Interrupted) else "error"
    problems = list(error.problems) if isinstance(error, ConfigError) else [str(error)]
    print_json({"status": status, "problems": problems})


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    from ldm_core.config import unstructure

    plain = unstructure(value)
    return plain if plain is not value else dict(value) if hasattr(value, "keys") else str(value)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    # Libraries and child processes write to file descriptor 1 behind Python's back (DeepSpeed's build messages do).
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def warnings_as_lines(most: int = 20) -> Iterator[None]:
    """Warnings become one line each on stderr, without Python's file and line; of each kind the first `most`.

    Notices that are for programmers (deprecations) are left out, and so is a second quote of the same cut-off text.
    """
    import warnings

    said: set[str] = set()
    counts: dict[Any, int] = {}

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        text = str(message)
        key = text.rpartition("cut off:")[2]
        if key in said or counts.get(category, 0) > most:
            return
        said.add(key)
        counts[category] = counts.get(category, 0) + 1
        print(f"warning: {text}" if counts[category] <= most else "warning: (more of this kind)", file=sys.stderr)

    with warnings.catch_warnings():
        for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("always", category=UserWarning, module=r"ldm_.*")
        warnings.showwarning = show
        yield


def table(rows: Sequence[tuple[str, ...]], indent: str = "") -> list[str]:
    """Rows of text -> aligned lines; the last column is free."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        (indent + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])).rstrip()
        for row in rows
    ]


def wrapped(text: str, width: int = 100, indent: str = "") -> list[str]:
    """Text in lines of at most `width` characters."""
    import textwrap

    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def first_process() -> bool:
    """Whether this is the process that speaks, among those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"
