"""Paths and URLs as text: taking them apart, putting them together, showing them without secrets, patterns.

Nothing here touches a disk or a network. A local path and a ``file://`` URL are the same thing.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from urllib.parse import unquote

from ldm_core.errors import StorageError, clean

_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_NAMES, _MOST_CHARACTERS, _DIGITS = 1_000_000, 1 << 28, 30  # that braces may stand for; of one of their numbers
_ABSOLUTE = re.compile(r"\s*(?:(?:file|local)://|~[^/\\\s]*[/\\]|/|\\\\|[A-Za-z]:[/\\])")
_IN_A_SENTENCE = re.compile(
    r"(?<![\w./:~\\{}-])(?:(?:file|local)://)?"
    r"(?:[A-Za-z]:(?:[/\\][^\s/\\:;,'\"()<>|]+)+|~[\w.-]*(?:/[^\s/:;,'\"()<>|]+)+|(?:/[^\s/:;,'\"()<>|]+){2,})"
)
_BETWEEN = re.compile(r"(,(?![^{}]*\})|::)")  # a comma within braces is part of a pattern
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, as disks have it
_SHOWN = 300  # characters of a URL in a message


def protocol(url: str) -> str:
    """``s3`` of ``s3://bucket/key``; ``file`` for a plain path."""
    head, mark, _ = str(url).partition("://")
    return head.split("::")[0].lower() if mark else "file"


def is_name(text: object) -> bool:
    """True for the name of a file in a folder, false for a way to another place."""
    return isinstance(text, str) and text not in ("", ".", "..") and not any(c in text for c in "/\\:\0")


def local_path(url: str | os.PathLike[str]) -> Path | None:
    """The path of a local URL or path (``~`` expanded), or None for anything remote; StorageError for an impossible
    path: a NUL, half a character, a name that is too long (a pattern's may be)."""
    text = os.fspath(url)
    if protocol(text) not in ("file", "local"):
        return None
    if "://" in text:
        text = unquote(text.partition("://")[2])
    _require_path(text, url)
    try:
        return Path(text).expanduser()
    except RuntimeError:  # '~' and the name of nobody: a file's name, as for the shell
        return Path(text)


def _require_path(text: str, url: str | os.PathLike[str]) -> None:
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise StorageError(f"{short(url)}: holds a character that no path here does ({error.reason})") from None
    if b"\0" in raw:
        raise StorageError(f"{short(url)}: holds a NUL, which no path does; check the spelling")
    if len(raw) > _LONGEST_NAME and not (_BRACES.search(text) or is_glob(text)):
        longest = max(map(len, raw.split(b"/")))
        if longest > _LONGEST_NAME or len(raw) > _LONGEST_PATH:
            raise StorageError(
                f"{short(url)}: its name is too long; one has at most {_LONGEST_NAME} bytes, a path {_LONGEST_PATH:,}"
            )


def shown(url: str | os.PathLike[str]) -> str:
    """``url`` fit for messages and metadata: no user, password, or signed query."""
    text = re.sub(r"\b(\w+://)[^/@\s]*@", r"\1", os.fspath(url))
    return re.sub(r"\b(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)


def without_folders(text: str) -> str:
    """`text` with the last name alone of each absolute local path, for files to hand on; any other text as it is.

    One path (``/``, ``~``, ``file://``, a drive), or several with commas or ``::`` between them.
    """
    pieces = _BETWEEN.split(text)
    return "".join(re.split(r"[/\\]", p.rstrip("/\\"))[-1] or p if _ABSOLUTE.match(p) else p for p in pieces)


def told_without_folders(text: str) -> str:
    """A sentence with the last names alone of the absolute local paths in it; those with spaces are cut at a space."""
    return _IN_A_SENTENCE.sub(lambda found: without_folders(found[0]), text)


def join(url: str | os.PathLike[str], *parts: str) -> str:
    """``url`` with path parts added; remote URLs keep forward slashes on every system."""
    path = local_path(url)
    if path is not None:
        return str(path.joinpath(*parts))
    head, mark, rest = os.fspath(url).partition("://")
    rest = rest.rstrip("/")
    return head + mark + "/".join([*([rest] if rest else ()), *(part.strip("/") for part in parts)])


def base_name(url: str) -> str:
    """The last part of a URL or path."""
    path = local_path(url)
    return path.name if path is not None else url.partition("://")[2].split("?")[0].rstrip("/").rpartition("/")[2]


def parent(url: str) -> str:
    """The folder that holds ``url``."""
    path = local_path(url)
    if path is not None:
        return str(path.parent)
    head, mark, rest = url.partition("://")
    return head + mark + rest.rstrip("/").rpartition("/")[0]


def braces(text: str) -> list[str]:
    """The URLs that ``{000000..000003}`` and ``{a,b}`` in ``text`` stand for, whether or not they exist."""
    matches = list(_BRACES.finditer(text))
    count = 1
    for match in matches:
        count *= _count(match.group(1), text)
        if count > _MOST_NAMES or count * len(text) > _MOST_CHARACTERS:
            raise StorageError(
                f"{short(text)}: its braces stand for too many files, at most a million are read; narrow them"
            )
    pieces: list[list[str]] = []
    end = 0
    for match in matches:
        pieces += [[text[end : match.start()]], _choices(match.group(1))]
        end = match.end()
    pieces.append([text[end:]])
    return ["".join(choice) for choice in itertools.product(*pieces)]


def _count(inside: str, text: str) -> int:
    """The names that one pair of braces stands for, at most one more than are allowed."""
    first, dots, last = inside.partition("..")
    if not dots:
        return inside.count(",") + 1
    if not (first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal() and _lower(first, last)):
        raise StorageError(
            f"{short(text)}: '{{{short(inside)}}}' is no range; write two numbers, lower first: {{000000..000003}}"
        )
    if max(len(first), len(last)) > _DIGITS:
        raise StorageError(f"{short(text)}: '{{{short(inside)}}}' has numbers of more than {_DIGITS} digits")
    return min(int(last) - int(first), _MOST_NAMES) + 1


def _lower(first: str, last: str) -> bool:
    a, b = first.lstrip("0"), last.lstrip("0")
    return (len(a), a) <= (len(b), b)


def _choices(inside: str) -> list[str]:
    first, dots, last = inside.partition("..")
    if not dots:
        return inside.split(",")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def short(url: str | os.PathLike[str]) -> str:
    """:func:`shown` for one line: cut where it is long, control characters escaped."""
    return clean(shown(url), _SHOWN)


def is_glob(url: str) -> bool:
    """True if ``*``, ``?`` or ``[...]`` make a pattern of it."""
    # A question mark starts the query of a web address.
    return any(sign in url for sign in ("*", "[")) or ("?" in url and protocol(url) not in ("http", "https"))
