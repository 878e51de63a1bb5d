"""Paths and URLs as text: taking them apart, putting them together, showing them without secrets, patterns.

Nothing here touches a disk or a network. A local path and a ``file://`` URL are the same thing.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from urllib.parse import unquote

from ldm_core.errors import StorageError

_BRACES = re.compile(r"\{([^{}]*)\}")


def protocol(url: str) -> str:
    """``s3`` of ``s3://bucket/key``; ``file`` for a plain path."""
    head, mark, _ = str(url).partition("://")
    return head.split("::")[0].lower() if mark else "file"


def local_path(url: str | os.PathLike[str]) -> Path | None:
    """The path of a local URL or path (``~`` expanded), or None for anything remote."""
    text = os.fspath(url)
    if protocol(text) not in ("file", "local"):
        return None
    if "://" in text:
        text = unquote(text.partition("://")[2])
    return Path(text).expanduser()


def shown(url: str | os.PathLike[str]) -> str:
    """``url`` fit for messages and metadata: no user, password, or signed query."""
    text = re.sub(r"(\w+://)[^/@\s]*@", r"\1", os.fspath(url))
    return re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)


def join(url: str | os.PathLike[str], *parts: str) -> str:
    """``url`` with path parts added; remote URLs keep forward slashes on every system."""
    path = local_path(url)
    if path is not None:
        return str(path.joinpath(*parts))
    return "/".join([os.fspath(url).rstrip("/"), *(part.strip("/") for part in parts)])


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
    pieces: list[list[str]] = []
    end = 0
    for match in _BRACES.finditer(text):
        pieces += [[text[end : match.start()]], _choices(match.group(1), text)]
        end = match.end()
    pieces.append([text[end:]])
    return ["".join(choice) for choice in itertools.product(*pieces)]


def _choices(inside: str, text: str) -> list[str]:
    first, dots, last = inside.partition("..")
    if not dots:
        return inside.split(",")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise StorageError(
            f"{shown(text)}: '{{{inside}}}' is no range; write two numbers, lower first: {{000000..000003}}"
        )
    if int(last) - int(first) >= 1_000_000:
        raise StorageError(f"{shown(text)}: '{{{inside}}}' stands for more than a million files; narrow it")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def is_glob(url: str) -> bool:
    """Whether ``*``, ``?`` or ``[...]`` make a pattern of it."""
    # A question mark starts the query of a web address.
    return any(sign in url for sign in ("*", "[")) or ("?" in url and protocol(url) not in ("http", "https"))
