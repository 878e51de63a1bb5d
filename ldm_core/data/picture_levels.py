"""Stored forms of pictures; levels used by those of more than 8 bits a channel, and remarks if they do not fill the
range."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ldm_core.data.images import DEEP, deep_levels, one_line, open_picture
from ldm_core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY, _WIDE, _FRACTION, _COLOUR = "16-bit grey", "32-bit grey", "floating-point grey", "16-bit colour"
_MOST = {_FRACTION: 255.0}  # what is white by itself, where it is not 65535
_WHITES = (255, 1023, 4095, 16383)  # the highest levels of 8, 10, 12 and 14 bits
_HEAD = 4 << 10
_MODES = {
    "1": "1-bit", "L": "grey", "LA": "grey with alpha", "P": "palette", "PA": "palette with alpha",
}  # fmt: skip
_DARK = 64  # of 255; pictures whose brightest level is below are taken to hold fewer bits than their files


def levels_used(read: Callable[[int], bytes]) -> tuple[str, float] | None:
    """(kind, highest level) of a picture with more than 8 bits a channel; None for any other.

    `read` gives the first bytes of its file, or all with 0. DataError for a picture that is damaged.
    """
    head = read(_HEAD)
    try:
        image = open_picture(head, "")
    except DataError:  # its header may be longer
        head = read(0)
        image = open_picture(head, "")
    colour = image.mode not in DEEP and _bits(image, head) == 16
    if image.mode not in DEEP and not colour:
        return None
    image = open_picture(read(0), "")
    try:
        if colour:
            return _COLOUR, float(np.asarray(image.convert("RGB")).max()) * 257
        return _kind(image), float(deep_levels(image).max())
    except DataError:
        raise
    except Exception as error:  # PIL raises anything from SyntaxError to struct.error on damaged files
        raise DataError(f"damaged or cut-off picture ({one_line(error)})") from error


def picture_form(head: bytes) -> str:
    """The format and mode of a picture in words (``PNG RGBA``), from the file's first bytes; empty if they are not
    there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of EXIF data that is cut off as well
            image = open_picture(head, "")
            if image.mode in DEEP:
                mode = _kind(image)
            else:
                deep = "16-bit " if _bits(image, head) == 16 else ""
                clear = " with transparency" if "transparency" in image.info else ""
                mode = f"{deep}{_MODES.get(image.mode, image.mode)}{clear}"
    except Exception:  # cut off in the middle of it, or no picture
        return ""
    return f"{image.format} {mode}"


def _bits(image: Image, head: bytes) -> int:
    """Bits a channel as the file has them; PIL keeps 8 of each of several channels."""
    if image.format == "PNG":
        return head[24]
    return int(max(getattr(image, "tag_v2", {}).get(258, (8,)))) if image.format == "TIFF" else 8


def _kind(image: Image) -> str:
    if image.mode == "F":
        return _FRACTION
    return _WIDE if image.mode == "I" and image.format == "TIFF" else _GREY


def remark_on(kind: str, top: float) -> str:
    """One line for pictures of a `kind` if none of the checked ones goes above `top`; else empty."""
    if kind == _COLOUR:
        line = (
            f"{kind} pictures reach {top:.0f}, of 65535, so that they are dark: of colour the upper 8 bits are read; "
            "save them with 8 bits, or over the whole range"
        )
        return line if top < _DARK * 257 else ""
    most = _MOST.get(kind, 65535.0)
    dark = 1 < top < _DARK if kind == _FRACTION else top < _DARK * 256
    if not dark and top <= most:
        return ""
    white = next((white for white in _WHITES if dark and kind != _FRACTION and top <= white), top)
    seen = "so that they are dark" if dark else f"and all above {most:g} is white"
    return (
        f"{kind} pictures reach {top:.9g}, of {most:.9g}, {seen}; say which level is white, such as "
        f"dataset.white_level={white:.9g}"
    )
