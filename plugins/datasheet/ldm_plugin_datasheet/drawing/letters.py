"""Text of any script: the first font with all letters of it, else fonts taking turns; wrapped by its width."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_NAMES = (
    "NotoSansCJK", "NotoSerifCJK", "NotoSansSC", "NotoSansJP", "NotoSansKR", "SourceHanSans", "DroidSansFallback",
    "wqy-", "unifont", "PingFang", "Hiragino", "AppleSDGothic", "msyh", "msgothic", "malgun", "Arial Unicode",
    "ArialUni", "NotoSansDevanagari", "NotoSansArabic", "NotoSansHebrew", "NotoSansThai", "NotoSansBengali",
    "NotoSansTamil", "NotoSans-Regular", "Nirmala", "FreeSans", "DejaVuSans.",
)  # fmt: skip
"""Beginnings of the names of font files with many letters, or with those of one script."""
_BOX = "\u25a1"
_MOST = 12  # such fonts that are opened
_NO_LETTER = "\U0010fffe"  # what a font draws for it, it draws for every letter that it lacks


def _folders() -> list[Path]:
    """The folders with fonts of this system."""
    home = Path.home()
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    if os.name == "nt":
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"]


@cache
def _files() -> tuple[str, ...]:
    """Font files beside Pillow's own: matplotlib's, if it is there, and those of the system with many letters."""
    found = find_spec("matplotlib")
    wide = [Path(at) / "mpl-data/fonts/ttf/DejaVuSans.ttf" for at in (found and found.submodule_search_locations) or ()]
    files = [str(path) for path in wide if path.is_file()]
    seen: dict[str, str] = {}
    for folder in _folders():
        for place, _, names in os.walk(folder):
            for name in names:
                match = next((known for known in _NAMES if name.startswith(known)), None)
                if match and name.lower().endswith((".ttf", ".otf", ".ttc")) and "Bold" not in name:
                    seen.setdefault(match, os.path.join(place, name))
    return (*files, *(seen[name] for name in _NAMES if name in seen))[:_MOST]


@cache
def _face(number: int, points: int) -> Any:
    """The font of that number in that size, 0 being Pillow's own; None if it does not open."""
    from PIL import ImageFont

    if not number:
        return ImageFont.load_default(size=points)
    try:
        return ImageFont.truetype(_files()[number - 1], points - 1)
    except (OSError, ValueError):
        return None


@cache
def _has(number: int, letter: str) -> bool:
    face = _face(number, 16)
    if face is None:
        return False
    return bytes(face.getmask(letter)) != bytes(face.getmask(_NO_LETTER))


@cache
def _number(letter: str) -> int:
    """The first font with this letter; -1 if none has it."""
    return next((n for n in range(len(_files()) + 1) if _has(n, letter)), -1)


class Letters:
    """Text on a sheet. `lacking`: letters met so far and found in no font."""

    def __init__(self) -> None:
        self.lacking: set[str] = set()

    def runs(self, text: str) -> Iterator[tuple[int, str]]:
        """Pieces of `text`, each with the number of its font."""
        if text.isascii() and text.isprintable():
            yield 0, text
            return
        shown = self._shown(text)
        letters = {c for c in shown if not c.isspace() and not _joins(c)}
        for number in range(len(_files()) + 1):
            if all(_has(number, c) for c in letters):
                yield number, shown
                return
        yield from _turns(shown)

    def _shown(self, text: str) -> str:
        """`text` with a box for each letter without a font, without its marks and without control characters."""
        out: list[str] = []
        boxed = False
        for letter in text:
            if not _written(letter) or (boxed and _joins(letter)):
                continue
            boxed = not letter.isspace() and not _joins(letter) and _number(letter) < 0
            if boxed:
                self.lacking.add(letter)
            out.append(_BOX if boxed else letter)
        return "".join(out)

    def length(self, text: str, points: int) -> float:
        """The width of a line in pixels."""
        return sum(float(_face(number, points).getlength(piece)) for number, piece in self.runs(text))

    def write(self, draw: Any, corner: tuple[float, float], text: str, points: int, colour: str) -> None:
        """Write one line with its left end at `corner` (x, y of the baseline)."""
        x, y = corner
        for number, piece in self.runs(text):
            draw.text((x, y), piece, font=_face(number, points), fill=colour, anchor="ls")
            x += float(_face(number, points).getlength(piece))

    def wrap(self, text: str, points: int, width: float, most: int) -> list[str]:
        """At most `most` lines of `text`, none wider than `width`; an ellipsis stands for the rest."""
        lines: list[str] = []
        rest = " ".join(text.split())
        while rest and len(lines) < most:
            line, rest = self._line(rest, points, width)
            lines.append(line)
        if rest and lines:
            lines[-1] = self.shortened(f"{lines[-1]} {rest}", points, width)
        return lines

    def shortened(self, text: str, points: int, width: float) -> str:
        """`text`, or its beginning with an ellipsis, no wider than `width`."""
        if self.length(text, points) <= width:
            return text
        return text[: self._fits(text, points, width, "…")].rstrip(" ,;:-") + "…"

    def _line(self, text: str, points: int, width: float) -> tuple[str, str]:
        """The first line of `text` and the rest: cut at a space, else in front of any letter of a script without
        spaces, else inside of a long word."""
        if self.length(text, points) <= width:
            return text, ""
        most = self._fits(text, points, width)
        cuts = [n for n in range(1, most + 1) if n < len(text) and _may_cut(text[n - 1], text[n])]
        cut = cuts[-1] if cuts else max(1, most)
        return text[:cut].rstrip(), text[cut:].lstrip()

    def _fits(self, text: str, points: int, width: float, end: str = "") -> int:
        """The number of letters of `text` with room in `width`, `end` behind them."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.length(text[:middle] + end, points) <= width:
                low = middle
            else:
                high = middle - 1
        return low


def _written(letter: str) -> bool:
    """False for marks on the look of the letter before them, and for control characters."""
    return letter.isspace() or (unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn") and not (
        "\ufe00" <= letter <= "\ufe0f"
    ))  # fmt: skip


def _joins(letter: str) -> bool:
    """True for an accent, a vowel sign and the like, drawn with the letter before it."""
    return unicodedata.category(letter)[0] == "M"


def _may_cut(before: str, after: str) -> bool:
    if before in " -/_" or after == " ":
        return True
    return unicodedata.east_asian_width(after) in "WF" and unicodedata.category(after)[0] != "P"


def _turns(text: str) -> Iterator[tuple[int, str]]:
    """Pieces of `text` by the first font of each letter; marks and spaces stay with the letter before them."""
    piece, current = "", 0
    for letter in text:
        stays = letter.isspace() or _joins(letter)
        number = current if stays else max(0, _number(letter))
        if number != current and piece:
            yield current, piece
            piece = ""
        piece, current = piece + letter, number
    if piece:
        yield current, piece
