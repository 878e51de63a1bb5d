"""The output of a command: text, or with ``--json`` one document on stdout and everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ldm_core.cli.flags import in_flags
from ldm_core.errors import ConfigError, Interrupted, LDMError, PromptWarning, clean, clean_lines

_CELL, _LAST, _WIDEST = 200, 1000, 60  # characters of a table's cells; of those, that others are aligned to
PATH = 4096
"""Characters of a path, at most: lists of files are for programs too, and stay whole."""
_NARROWEST = 30  # columns of a terminal for which lines are wrapped


@contextlib.contextmanager
def reporting(as_json: bool) -> Iterator[dict[str, Any]]:
    """Give a mapping to fill. With `as_json` it is printed at the end, alone on stdout, also after a user's mistake
    (``{"status": "error", "problems": [...]}``); without, it is dropped. Errors go on in both cases.
    """
    document: dict[str, Any] = {}
    if not as_json:
        with memory_said():
            yield document
        return
    try:
        with _stdout_to_stderr(), memory_said():
            yield document
    except LDMError as error:
        print_problems(error)
        raise
    print_json(document)


@contextlib.contextmanager
def memory_said() -> Iterator[None]:
    """Turn a lack of memory, whoever asked for it, into a :class:`ConfigError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not named and not _NO_MEMORY.search(said):
            raise
        raise ConfigError(
            f"not enough memory ({clean(said, 160) or type(error).__name__}); take fewer images at once (--batch, or "
            "trainer.accumulate for training), a smaller image_size or a smaller model"
        ) from error


_NO_MEMORY = re.compile(r"(not enough|can't allocate|cannot allocate|out of) memory|invalid buffer size", re.IGNORECASE)


def print_problems(error: LDMError) -> None:
    """Print the problems as the one JSON document on stdout."""
    status = "interrupted" if isinstance(error, Interrupted) else "error"
    problems = list(error.problems) if isinstance(error, ConfigError) else [str(error)]
    print_json({"status": status, "problems": [in_flags(problem) for problem in problems]})


def say(text: str, *, err: bool = False, wrap: bool = False, longest: int = 240) -> None:
    """Print lines for a reader on stdout or stderr: the one door to the terminal.

    Control characters, possible in names of files, come out as escapes; words longer than `longest` characters are cut.
    `wrap`: long lines are wrapped at words on a terminal.
    """
    stream = sys.stderr if err else sys.stdout
    text = clean_lines(text, max(2000, longest), longest)
    print(wrapped_for(stream, text) if wrap else text, file=stream, flush=True)


def wrapped_for(stream: Any, text: str) -> str:
    """Wrap long lines at words if `stream` is a terminal; logs and pipes get whole lines."""
    width = width_of(stream)
    return wrapped_at(text, width) if width >= _NARROWEST else text


def width_of(stream: Any) -> int:
    """Count the columns of the terminal `stream`; 0 if it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (AttributeError, OSError, ValueError):
        return 0


def wrapped_at(text: str, width: int) -> str:
    """Wrap `text` at `width` characters, names and commands whole; continued lines are indented."""
    import textwrap

    out: list[str] = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" "))] + "  "
        out += textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        ) or [""]
    return "\n".join(out)


def print_yaml(value: Any) -> None:
    """Print one YAML document on stdout, in ASCII if stdout takes no UTF-8."""
    from ldm_core.config.documents import dump_yaml

    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    text = dump_yaml(value)
    sys.stdout.write(text if encoding == "utf8" or text.isascii() else dump_yaml(value, ascii_only=True))


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, in ASCII: every encoding of stdout can write it, and none changes it."""
    print(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    from ldm_core.config.structure import unstructure

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
def warnings_as_lines(most: int = 20, *, strict: bool = False) -> Iterator[None]:
    """Print warnings as one line each on stderr, without Python's file and line; of each kind the first `most`. With
    `strict` those of a cut-off input are errors.

    Notices for programmers (deprecations) are left out, and so is a second quote of the same cut-off text.
    """
    import warnings

    said: set[str] = set()
    counts: dict[Any, int] = {}

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        text = in_flags(str(message))
        key = text.rpartition("cut off:")[2]
        if key in said or counts.get(category, 0) > most:
            return
        said.add(key)
        counts[category] = counts.get(category, 0) + 1
        say(f"warning: {text}" if counts[category] <= most else "warning: (more of this kind)", err=True, wrap=True)

    with warnings.catch_warnings():
        for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("always", category=UserWarning, module=r"ldm_.*")
        if strict:
            warnings.simplefilter("error", PromptWarning)
        warnings.showwarning = show
        yield


def table(rows: Sequence[tuple[str, ...]], indent: str = "", width: int = 0) -> list[str]:
    """Make aligned lines of rows of text; the last column is free, a long name in another is cut.

    `width`: columns at which the last one goes on below itself, or in lines of its own if little room is left.
    """
    if not rows:
        return []
    rows = [(*(clean(cell, _CELL) for cell in row[:-1]), clean(row[-1], _LAST)) for row in rows]
    widths = [min(_WIDEST, max(len(row[i]) for row in rows)) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        first = indent + "".join(cell.ljust(w) + "  " for cell, w in zip(row, widths, strict=False))
        room = width - len(first)
        if room >= _NARROWEST or not width or not row[-1]:
            last = wrapped(row[-1], room) if width else [row[-1]]
            lines += [(first + "".join(last[:1])).rstrip(), *(" " * len(first) + line for line in last[1:])]
        else:
            lines += [first.rstrip(), *wrapped(row[-1], width, indent + "    ")]
    return lines


def wrapped(text: str, width: int = 100, indent: str = "") -> list[str]:
    """Cut text at words into lines of at most `width` characters."""
    import textwrap

    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def first_process() -> bool:
    """Tell the speaking process from the others of a launcher."""
    return os.environ.get("RANK", "0") == "0"
