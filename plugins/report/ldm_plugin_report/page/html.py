"""HTML made of elements: every text is escaped unless it is markup made here. Nothing of a run gets onto a page by
another way."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from html import escape
from typing import Any, TypeAlias

from ldm_core.errors import clean

_EMPTY = ("br", "img", "input", "meta", "link", "hr")
_LONGEST = 20_000  # characters of a text


class Markup(str):
    """Text in HTML already: made by :func:`tag`, or static and written in this distribution."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"


def text(value: object) -> Markup:
    """Escape a value; control characters come out as escapes."""
    return value if isinstance(value, Markup) else Markup(escape(clean(value, _LONGEST), quote=True))


def join(*children: Child) -> Markup:
    """Put children one after the other; None is nothing."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str | int | float):
            parts.append(text(child))
        else:
            parts.append(join(*child))
    return Markup("".join(parts))


def tag(element: str, /, *children: Child, **attributes: Any) -> Markup:
    """An element. Attributes: ``class_`` is class, ``data_step`` data-step, None and False are left out, True is a bare
    name."""
    parts = []
    for key, value in attributes.items():
        word = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {word}")
        elif value is not None and value is not False:
            parts.append(f' {word}="{text(value)}"')
    begin = f"<{element}{''.join(parts)}>"
    return Markup(begin if element in _EMPTY else f"{begin}{join(*children)}</{element}>")


def picture(src: str, alt: str, width: int, height: int, **attributes: Any) -> Markup:
    """An image of a data URL made by :mod:`ldm_plugin_report.pictures`: it is not escaped again, as it is long and
    holds letters of base64 alone."""
    if not src.startswith("data:image/") or any(letter in src for letter in "\"'<>& "):
        raise ValueError("no data URL of a picture")
    rest = tag("img", alt=alt, width=width, height=height, **attributes)
    return Markup(f'<img src="{src}"{rest[4:]}')


def data_block(value: Any, name: str) -> Markup:
    """A block of JSON for the page's script; no text in it can end the block."""
    body = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        body = body.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(f'<script type="application/json" id="{escape(name)}">{body}</script>')


def hash_of(code: str) -> str:
    """The source expression of an inline script or style for a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
