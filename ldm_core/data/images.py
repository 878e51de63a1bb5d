"""Pictures as bytes and as arrays: decoding, PNGs with metadata, grids, uint8 and float. PIL lazily."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.data.palettes import UNLABELED, Palette
from ldm_core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000  # a decoded picture of 300 MB; a file that asks for more is an attack or a mistake
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Formats opened, under any file name. PIL knows more, but its EPS would start another program."""
DEEP = ("I", "I;16", "I;16B", "I;16L", "F")
"""PIL's modes of one channel with more than 8 bits."""
_TURNED = (5, 6, 7, 8)  # EXIF orientations in which rows are columns
_EXIF_KEYS = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
"""Keys of PIL for an orientation, beside a TIFF's tags."""
STORED_SIZE = (-1, -1)
"""Key in the `info` of a PIL image decoded smaller than it is stored: its upright (H, W) there. Keys from a file are
texts."""
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as PIL's "L"


def decode_image(data: bytes, channels: int = 3, name: str = "image", white: float = 0.0) -> NDArray[np.uint8]:
    """The bytes of a PNG, JPEG, WebP, ... -> uint8 (channels, H, W), upright, transparency on white.

    Grey of more than 8 bits: the level ``white`` becomes 255; 0 stands for 65535 (its upper 8 bits), and for 1 or 255
    in numbers with a fraction. DataError naming ``name`` if it is damaged, no picture, or has more than ``MAX_PIXELS``
    pixels.
    """
    return to_planes(decode_picture(data, channels, name, white=white))


def to_planes(picture: Image, flip: bool = False) -> NDArray[np.uint8]:
    """A PIL image of mode L or RGB -> uint8 (1 or 3, H, W), writable; mirrored left to right with `flip`."""
    if picture.mode == "L":
        planes = np.asarray(picture)[None]
    else:
        lines = np.frombuffer(picture.tobytes("raw", "RGB;L"), dtype=np.uint8)  # line by line: red, green, blue
        planes = lines.reshape(picture.height, 3, picture.width).transpose(1, 0, 2)
    return np.array(planes[..., ::-1] if flip else planes, order="C")


def decode_picture(
    data: bytes,
    channels: int = 3,
    name: str = "image",
    enough: Callable[[int, int], tuple[int, int]] | None = None,
    white: float = 0.0,
) -> Image:
    """As :func:`decode_image`, as a PIL image of mode L or RGB. ``enough``: native (H, W) -> a sufficient size; a JPEG
    can be decoded at 1/2, 1/4 or 1/8 in less time, so it comes at the smallest of these not below that size.
    """
    image = open_picture(data, name)
    mode, stored = "L" if channels == 1 else "RGB", None
    try:
        if enough is not None and image.format in ("JPEG", "MPO"):
            least = enough(image.height, image.width)
            if 2 * min(least) <= max(image.size):
                stored = (image.height, image.width)
                if image.getexif().get(0x0112) in _TURNED:
                    least, stored = enough(image.width, image.height)[::-1], stored[::-1]
                image.draft(None, (least[1], least[0]))
        image.load()
        turn_upright(image)
        whole = flat(image, white)
        out = whole if whole.mode == mode else whole.convert(mode)
        if stored is not None:
            out.info[STORED_SIZE] = stored
        return out
    except _Misfit as error:
        raise DataError(f"{name}: {error}") from error
    except Exception as error:  # PIL raises anything from SyntaxError to struct.error on damaged files
        raise DataError(f"{name}: damaged or cut-off picture ({one_line(error)})") from error


def decode_labels(
    data: bytes, name: str = "label map", palette: Palette | None = None, *, colours: bool = False
) -> NDArray[np.int64]:
    """A label map as a picture -> int64 (H, W), upright: the palette indices or grey levels stored; of a picture in
    colour, the level shared by its channels. DataError naming ``name`` if it is damaged, coloured or transparent. In a
    ``palette`` colours are looked up, of an indexed picture if all are there. With ``colours`` they come (3, H, W)."""
    return _decoded(data, name, lambda image: _labels(image, palette, name, colours))


def decode_mask(data: bytes, name: str = "mask") -> NDArray[np.int64]:
    """A mask as a picture -> int64 (H, W), upright: grey levels, 0 to 255, of colours their brightness. The colours of
    a palette count if all used ones are grey, else its indices do. Holes of a photograph with erased parts are these:
    255 - alpha. DataError if it is damaged, or drawn in a few colours and transparent, as holes could be either."""
    return _decoded(data, name, _mask)


def levels_of(picture: Image, key: str, name: str) -> NDArray[np.int64]:
    """A PIL image as a label map or, under the key ``mask``, as a mask: what :func:`decode_labels` and
    :func:`decode_mask` make of its file."""
    try:
        return (_mask(picture) if key == "mask" else _labels(picture)).astype(np.int64)
    except _Misfit as error:
        raise DataError(f"{name}: {error}") from error


_DRAWN = 16  # colours of a drawn mask with transparent parts, at most: these may be its holes, or all but its holes


class _Misfit(DataError):
    """A whole picture with a wrong content; its name is yet to be told."""


def _decoded(data: bytes, name: str, read: Callable[[Image], NDArray[Any]]) -> NDArray[np.int64]:
    image = open_picture(data, name)
    try:
        image.load()
        turn_upright(image)
        return read(image).astype(np.int64)
    except _Misfit as error:
        raise DataError(f"{name}: {error}") from error
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name}: damaged or cut-off picture ({one_line(error)})") from error


def _labels(image: Image, palette: Palette | None = None, name: str = "", colours: bool = False) -> NDArray[Any]:
    if palette is not None and image.mode == "P":
        own = np.asarray(image.getpalette("RGB") or (), dtype=np.int64).reshape(-1, 3)
        return palette.of_indexed(np.asarray(image), own, name)
    if image.mode in ("P", "L", "1"):
        return np.asarray(image)
    if image.mode in DEEP:
        levels = deep_levels(image)
        if levels.min() < 0 or (levels % 1).any():
            raise _Misfit(f"holds {levels.min():g}; classes are numbered from 0 on, and {UNLABELED} stands for none")
        return levels
    image = _opaque(image, "a label map")
    channels = np.asarray(image if image.mode == "L" else image.convert("RGB")).reshape(image.height, image.width, -1)
    if palette is not None and channels.shape[-1] == 3:
        return palette.classes(channels, name)
    if colours and (channels != channels[..., :1]).any():
        return np.moveaxis(channels, -1, 0)
    if (channels != channels[..., :1]).any():
        coloured = channels[(channels != channels[..., :1]).any(-1)][0]
        raise _Misfit(
            f"a label map in colour, such as {tuple(coloured.tolist())}; save the number of each pixel's class as its "
            f"grey level or palette index ({UNLABELED}: none), or list the colours: dataset.palette=palette.json"
        )
    return channels[..., 0]


def _mask(image: Image) -> NDArray[Any]:
    if image.mode == "P":
        used = np.unique(np.asarray(image))
        colours = np.asarray(image.getpalette("RGB") or (), dtype=np.int64).reshape(-1, 3)
        if used.max() >= len(colours) or (colours[used] != colours[used, :1]).any():
            return np.asarray(image)
        return colours[:, 0][np.asarray(image)]
    if image.mode in ("L", "1"):
        return np.asarray(image)
    if image.mode in DEEP:
        levels = deep_levels(image)
        if image.mode == "F":
            return np.clip(levels * (255 if levels.max() <= 1 else 1) + 0.5, 0, 255)
        return np.clip(levels, 0, 65535) >> (8 if levels.max() > 255 else 0)
    if (erased := _erased(image)) is not None:
        return erased
    return np.asarray(_opaque(image, "a mask").convert("L"))


def _erased(image: Image) -> NDArray[Any] | None:
    """The transparency, 255 - alpha, of a photograph: its opaque pixels have more colours than a drawn mask; None of
    any other picture."""
    if image.mode not in ("RGBA", "LA", "PA"):  # and not LAB, which has a band called A
        return None
    pixels = np.asarray(image.convert("RGBA"))
    seen = pixels[pixels[..., 3] >= 128][:, :3]
    colours = seen[:: max(1, len(seen) >> 20)] @ np.array([1, 1 << 8, 1 << 16])  # of a million pixels, at most
    if pixels[..., 3].min() == 255 or len(np.unique(colours)) <= _DRAWN:
        return None
    return np.asarray(255 - pixels[..., 3])


def _opaque(image: Image, what: str) -> Image:
    """The picture without its alpha, if this says nothing."""
    if image.mode not in ("RGBA", "LA", "PA"):
        return image
    if np.asarray(image.getchannel("A")).min() < 255:
        raise _Misfit(f"{what} with transparent pixels, which are neither one thing nor the other; flatten it first")
    return image.convert("L" if image.mode == "LA" else "RGB")


def turn_upright(image: Image) -> None:
    """Turn a loaded picture in place as its EXIF orientation says."""
    if not _EXIF_KEYS.isdisjoint(image.info) or image.format == "TIFF":  # asking costs as much as a small picture
        from PIL import ImageOps

        ImageOps.exif_transpose(image, in_place=True)


def picture_size(head: bytes) -> tuple[int, int] | None:
    """The upright (H, W) of a picture's header, from the file's first bytes; None if it is not there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of EXIF data that is cut off as well
            image = open_picture(head, "")
            turned = image.format in ("JPEG", "MPO") and image.getexif().get(0x0112) in _TURNED
    except Exception:  # cut off in the middle of it, or no picture
        return None
    return (image.width, image.height) if turned else (image.height, image.width)


@cache
def _formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` known to this build of PIL; it takes an unknown one for a mistake."""
    from PIL import Image as PILImage

    PILImage.init()
    return tuple(f for f in FORMATS if f in PILImage.OPEN)


def open_picture(data: bytes, name: str) -> Image:
    """A PIL image of one of :data:`FORMATS`, its pixels not yet decoded; DataError if it is none or too large."""
    from PIL import Image as PILImage

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)  # our own limit is below
            image = PILImage.open(io.BytesIO(data), formats=_formats())
    except PILImage.DecompressionBombError as error:
        raise DataError(f"{name}: more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except Exception as error:
        what = f"begins with {bytes(data[:12])!r}" if data else "the file is empty"
        raise DataError(f"{name}: not a picture ({what})") from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {image.width}x{image.height} is more than {MAX_PIXELS:,} pixels; make it smaller")
    return image


def flat(image: Image, white: float = 0.0) -> Image:
    """A picture of 8 bits a channel, transparency on white."""
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    from PIL import Image as PILImage

    if image.mode in DEEP:
        levels = deep_levels(image)
        scaled: NDArray[Any]
        if white:
            scaled = np.clip(levels * (255.0 / white) + 0.5, 0, 255)
        elif image.mode == "F":
            scaled = np.clip(levels * (255 if levels.max() <= 1 else 1), 0, 255)
        else:
            scaled = np.clip(levels, 0, 65535) >> 8
        return PILImage.fromarray(scaled.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        paper = PILImage.new("RGBA", rgba.size, (255, 255, 255, 255))
        return PILImage.alpha_composite(paper, rgba).convert("RGB")
    return image


def deep_levels(image: Image) -> NDArray[Any]:
    """Levels (H, W) of a picture of one of the modes :data:`DEEP`: int64, or finite float32, else DataError."""
    if image.mode == "F":
        levels = np.asarray(image)
        if wrong := int(np.count_nonzero(~np.isfinite(levels))):
            raise _Misfit(
                f"{wrong} of the {levels.size} levels of a floating-point picture are not finite (NaN or infinite); "
                "give them a level, such as 0"
            )
        return levels
    return np.asarray(image.convert("I")).astype(np.int64)


def one_line(error: Exception) -> str:
    """The first line of a library's error, not longer than a terminal's."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def to_channels(array: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """uint8 (c, H, W) -> (channels, H, W), c and channels 1 or 3."""
    if array.shape[0] == channels:
        return array
    if array.shape[0] == 1:
        return np.repeat(array, channels, axis=0)
    grey = np.tensordot(_LUMA, array.astype(np.float64), axes=1)[None]
    return np.asarray(np.clip(grey + 0.5, 0, 255), dtype=np.uint8)


def to_float(array: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return np.asarray(array, dtype=np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """float in [-1, 1] (clipped) -> uint8, rounded; the inverse of :func:`to_float` on its values."""
    scaled = np.nan_to_num(np.asarray(array, dtype=np.float32), nan=0.0) * np.float32(127.5) + np.float32(128)
    return np.asarray(np.clip(scaled, 0, 255), dtype=np.uint8)


def to_picture(array: NDArray[np.uint8]) -> Image:
    """uint8 (c, H, W), c = 1 or 3 -> a PIL image."""
    from PIL import Image as PILImage

    planes = np.ascontiguousarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))
    return PILImage.fromarray(planes)


def png_bytes(array: NDArray[np.uint8], metadata: Mapping[str, str] | None = None) -> bytes:
    """uint8 (c, H, W) -> a PNG file; ``metadata`` as its text chunks (any Unicode)."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for key, value in (metadata or {}).items():
        if value.isascii():
            chunks.add_text(key, value)
        else:
            chunks.add_itxt(key, value)
    buffer = io.BytesIO()
    to_picture(array).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def png_metadata(data: bytes) -> dict[str, str]:
    """The text chunks of a PNG."""
    image = open_picture(data, "PNG")
    image.load()
    return {key: str(value) for key, value in getattr(image, "text", {}).items()}


def _wide_font() -> str | None:
    """A font file for more than ASCII, the only letters of Pillow's own: matplotlib's (Latin, Greek, Cyrillic,
    symbols). None if it is not there."""
    found = find_spec("matplotlib")
    folders = list(found.submodule_search_locations or []) if found else []
    files = [Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" for folder in folders]
    return next((str(file) for file in files if file.is_file()), None)


def font_for(texts: Sequence[str], points: int) -> Any:
    """A font of that size for these texts: Pillow's own, or a wider one for more than ASCII."""
    from PIL import ImageFont

    file = None if all(text.isascii() for text in texts) else _wide_font()
    return ImageFont.truetype(file, points - 1) if file else ImageFont.load_default(size=points)


def grid(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    *,
    cell: int = 0,
    gap: int = 4,
) -> NDArray[np.uint8]:
    """Pictures (c, H, W) in rows on white, with their captions wrapped underneath -> uint8 (3, h, w).

    ``cell`` is the least width a picture is shown at (whole-number enlargement, nearest pixel); 0 means 128
    under captions, which need the room, and 1 otherwise.
    """
    from PIL import Image as PILImage
    from PIL import ImageDraw

    if not images:
        raise ValueError("grid: expected one picture or more, got none")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"grid: expected one caption a picture, got {len(captions)} for {len(images)}")
    pictures = [to_picture(to_channels(np.asarray(image), 3)) for image in images]
    factor = max(1, -(-(cell or (128 if captions else 1)) // max(p.width for p in pictures)))
    nearest = PILImage.Resampling.NEAREST
    pictures = [p.resize((p.width * factor, p.height * factor), nearest) for p in pictures]
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    font = font_for(captions or [], 11)
    wrap_at = max(8, int(width / max(1.0, font.getlength("abcdefghijklmnop ") / 17)))
    lines = [textwrap.wrap(text, wrap_at, max_lines=6, placeholder=" ...") for text in captions or []]
    texts = ["\n".join(some) for some in lines] or [""] * len(images)
    line_height = 14
    below = max(text.count("\n") + 1 if text else 0 for text in texts) * line_height
    columns = columns or min(len(pictures), max(1, round(len(pictures) ** 0.5 * 1.4)))
    rows = -(-len(pictures) // columns)
    step_x, step_y = width + gap, height + below + gap
    sheet = PILImage.new("RGB", (columns * step_x + gap, rows * step_y + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        row, column = divmod(place, columns)
        corner = (gap + column * step_x, gap + row * step_y)
        sheet.paste(picture, corner)
        draw.multiline_text((corner[0], corner[1] + height), text, fill="black", font=font, spacing=2)
    return np.ascontiguousarray(np.asarray(sheet).transpose(2, 0, 1))
