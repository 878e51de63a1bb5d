"""Folders of pictures for tests of the folder reader, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.data.records.dataset import RecordDataset

SITE = Site(size=(16, 16))
SIZES = ((16, 16), (32, 16), (16, 40), (64, 64), (24, 48), (16, 20))
"""Those of :func:`pictures`, (height, width)."""
PNG = images.png_bytes(np.full((3, 8, 8), 7, dtype=np.uint8))


def fill(base: Path, *pictures: str, **texts: str) -> Path:
    """`pictures`, and `texts` by names with two underscores for a dot."""
    for name in pictures:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(PNG)
    for name, text in texts.items():
        (base / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
    return base


def pictures(base: Path) -> dict[str, Any]:
    """A folder of two classes with a picture of each of :data:`SIZES`, as the setting of a dataset."""
    draw = np.random.default_rng(1)
    for i, (height, width) in enumerate(SIZES):
        place = base / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(images.png_bytes(draw.integers(0, 256, (3, height, width), dtype=np.uint8)))
    return {"use": "folder", "url": str(base)}


def rows(*names: str, **fields: Any) -> str:
    return "".join(json.dumps({"file_name": n, "text": f"of {n}", **fields}) + "\n" for n in names)


def opened(base: Any, **settings: Any) -> FolderDataset:
    return FolderDataset(FolderConfig(url=str(base), **settings), SITE)


def captions(data: RecordDataset) -> list[str]:
    view = data.select(["caption"])
    return [view[i]["caption"] for i in range(len(view))]


def names(data: RecordDataset) -> list[str]:
    view = data.select(["name"])
    return [view[i]["name"] for i in range(len(view))]
