"""The file of a sheet: a PNG of a few MB at most, written over its like alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ldm_core import storage
from ldm_core.contracts import Dataset
from ldm_core.data.images import png_metadata
from ldm_core.errors import ConfigError, DataError
from ldm_plugin_datasheet.drawing.picks import picks
from ldm_plugin_datasheet.drawing.sheet import SIDES, draw
from ldm_plugin_datasheet.examples import Tell, silent
from ldm_plugin_datasheet.opened import Opened

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm_plugin_datasheet.drawing.made import Made

MOST_BYTES = 4 << 20
"""Bytes of the file; above, the pictures are drawn smaller."""
PICTURES = 64
"""Pictures of a sheet."""
_MARK = ("Software", "ldm-run data")


def require(url: str, *, force: bool) -> None:
    """ConfigError for a file of another format, and for one in the way, other than a sheet."""
    if not url.lower().endswith(".png"):
        raise ConfigError(f"--sheet: {storage.shown(url)}: the sheet is a PNG; give a name that ends in .png")
    if not force and storage.exists(url) and not _is_sheet(url):
        raise ConfigError(f"--sheet: {storage.shown(url)} is there and is no such sheet; give another name, or --force")


def _is_sheet(url: str) -> bool:
    try:
        return png_metadata(storage.read_bytes(url)).get(_MARK[0]) == _MARK[1]
    except (DataError, OSError, SyntaxError):
        return False


def write(
    url: str,
    sets: Sequence[Opened],
    *,
    seed: int = 0,
    count: int = PICTURES,
    tell: Tell = silent,
    made: Callable[[Dataset], Made | None] | None = None,
) -> set[str]:
    """Draw `count` pictures of the data sets into the PNG at a path or URL, with the inputs `made` of each set's;
    return the letters without a font."""
    found = []
    for each, share in _shares(sets, count):
        makes = None if made is None else made(each.dataset)
        drawn = picks(each.dataset, share, seed, tell, None if makes is None else makes.panels)
        found.append((storage.without_folders(each.title), len(each.dataset), drawn))
    data, lacking = b"", set[str]()
    for side in SIDES:
        picture, lacking = draw(found, side=side, seed=seed)
        data = _encoded(picture)
        if len(data) <= MOST_BYTES:
            break
    storage.atomic_write(url, data)
    return lacking


def _shares(sets: Sequence[Opened], count: int) -> list[tuple[Opened, int]]:
    """The number of pictures of each data set: as equal as can be."""
    share, rest = divmod(count, len(sets))
    return [(each, share + (number < rest)) for number, each in enumerate(sets)]


def _encoded(picture: Image) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    chunks, buffer = PngInfo(), io.BytesIO()
    chunks.add_text(*_MARK)
    picture.save(buffer, format="PNG", pnginfo=chunks, compress_level=9)
    return buffer.getvalue()
