"""Folders and tars of the tests: ordinary ones, and ones with everything that may be odd about data."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CAPTIONS = {
    "long": "a very long caption that goes on and on about a small square of noise, its colours, its place in the "
    "world, the light that falls on it, the people who never saw it, and more than any sheet has room for",
    "one_word": "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "chinese": "一只坐在窗台上的猫,望着外面下雨的街道,旁边放着一杯热茶和一本打开的书",
    "arabic": "قطة تجلس على حافة النافذة",
    "hindi": "खिड़की पर बैठी बिल्ली",
    "greek": "μια γάτα στο παράθυρο",
    "emoji": "a cat 🐈\u200d⬛ at the window ❤️",
    "marks": "two\nlines\tand a \x07bell",
    "empty": "",
}


def noise(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture of coarse noise."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def folder(at: Path, count: int = 12, *, size: tuple[int, int] = (48, 32), captions: bool = True) -> str:
    """An ordinary folder: pictures of two classes, with captions."""
    for number in range(count):
        place = at / ("cat" if number % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        noise(*size, seed=number).save(place / f"{number:03}.png")
        if captions:
            (place / f"{number:03}.txt").write_text(f"a {place.name} of colour {number % 4}", encoding="utf-8")
    return str(at)


def odd_folder(at: Path) -> str:
    """Pictures of every size and mode, captions of every script."""
    at.mkdir(parents=True, exist_ok=True)
    sizes = {"wide": (900, 12), "tall": (12, 900), "dot": (1, 1), "large": (700, 500), "small": (20, 30)}
    for number, (name, size) in enumerate(sizes.items()):
        noise(*size, seed=number).save(at / f"{name}.png")
    noise(64, 64, 7, "L").save(at / "grey.png")
    clear = noise(64, 64, 8, "RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((64, 64)))
    clear.save(at / "clear.png")
    noise(64, 64, 9).convert("P", palette=Image.Palette.ADAPTIVE).save(at / "palette.gif")
    noise(64, 64, 10).convert("CMYK").save(at / "print.jpg")
    levels = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    Image.fromarray(levels).save(at / "deep.png")
    for number, (name, text) in enumerate(CAPTIONS.items(), 20):
        noise(64, 48, number).save(at / f"{name}.png")
        (at / f"{name}.txt").write_text(text, encoding="utf-8")
    return str(at)


def spoil(at: str) -> list[str]:
    """Put files that do not read into a folder; their names."""
    place = Path(at)
    whole = io.BytesIO()
    noise(64, 64, 1).save(whole, "JPEG")
    bad = {
        "words.png": b"this is a text and no picture\n",
        "cut.jpg": whole.getvalue()[:600],
        "nothing.png": b"",
        "bomb.png": bomb(60_000, 60_000),
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, data in bad.items():
        (place / name).write_bytes(data)
    return sorted(bad)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that asks for a great many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def tar(at: Path, count: int = 10, *, maps: bool = False, boxes: bool = False) -> str:
    """A tar of pictures, with label maps of three classes and unlabelled pixels, or with boxes."""
    at.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(at, "w") as out:
        for number in range(count):
            files: dict[str, bytes] = {"png": _png(noise(40, 30, number))}
            if maps:
                labels = np.zeros((30, 40), dtype=np.uint8)
                labels[5:20, 5:25], labels[22:, :], labels[:, 38:] = 1, 2, 255
                files["seg.png"] = _png(Image.fromarray(labels))
            if boxes:
                fields: dict[str, Any] = {"boxes": [[0.1, 0.1, 0.5, 0.5], [0.2, 0.4, 0.9, 0.95]][: 1 + number % 2]}
                fields["labels"] = [0, 2][: 1 + number % 2]
                files["json"] = json.dumps(fields).encode()
            for extension, data in files.items():
                info = tarfile.TarInfo(f"{number:04}.{extension}")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return str(at)


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
