"""Small annotation files of every format, written as the formats have them, and data sets read with them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.data import images

SITE = Site(size=(16, 16), catalog=Catalog.discover())
NAMES = ("cat", "dog", "kite")
SIZE = (20, 40)
"""(height, width) of the pictures."""
BOXES: Mapping[str, list[tuple[str, tuple[float, float, float, float]]]] = {
    "a": [("dog", (4, 2, 14, 12)), ("cat", (0, 0, 40, 20))],
    "b": [],
    "c": [("kite", (30.5, 10, 38.5, 15))],
}
"""Picture -> its objects: class, and two corners in pixels."""


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.png_bytes(np.zeros((3, *size), dtype=np.uint8)))


def fill(base: Path, folder: str = "", names: Sequence[str] = ("a", "b", "c")) -> Path:
    for name in names:
        picture(base / folder / f"{name}.png")
    return base


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def opened(base: Path, annotations: Any, **settings: Any) -> FolderDataset:
    return FolderDataset(FolderConfig(url=str(base), annotations=annotations, **settings), SITE)


Objects = Mapping[str, Sequence[tuple[str, Sequence[float]]]]
Writer = Callable[..., Any]


def coco(base: Path, boxes: Objects, size: tuple[int, int] = SIZE, suffix: str = ".png", **more: Any) -> str:
    """Ids neither begin at 0 nor follow on each other, and categories are out of order, as COCO's are."""
    classes = more.pop("classes", NAMES)
    ids = {name: 3 + 7 * i for i, name in enumerate(classes)}
    body: dict[str, Any] = {
        "info": {"description": "made by a test"},
        "images": [
            {"id": 100 + i, "file_name": name + suffix, "height": size[0], "width": size[1]}
            for i, name in enumerate(boxes)
        ],
        "annotations": [
            {"id": 10 * i + k, "image_id": 100 + i, "category_id": ids[label], "iscrowd": 0, "area": 1.0,
             "bbox": [x, y, right - x, bottom - y], "segmentation": [[x, y, right, y, right, bottom]]}
            for i, found in enumerate(boxes.values())
            for k, (label, (x, y, right, bottom)) in enumerate(found)
        ],
        "categories": [{"id": ids[name], "name": name, "supercategory": "thing"} for name in reversed(classes)],
        **more,
    }  # fmt: skip
    text(base / "instances.json", json.dumps(body))
    return "instances.json"


def openimages(base: Path, boxes: Objects, size: tuple[int, int] = SIZE, **more: Any) -> str:
    classes = more.pop("classes", NAMES)
    labels = {name: f"/m/0{i}" for i, name in enumerate(classes)}
    height, width = size
    header = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded",
              "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"]  # fmt: skip
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(header)
    for name, found in boxes.items():
        for label, (x, y, right, bottom) in found:
            values = [x / width, right / width, y / height, bottom / height]
            rows.writerow([name, "xclick", labels[label], 1, *values, 0, 0, 0, 0, 0])
    text(base / "train-annotations-bbox.csv", out.getvalue())
    text(base / "class-descriptions-boxable.csv", "".join(f'{labels[n]},"{n}"\n' for n in classes))
    return "train-annotations-bbox.csv"


def voc(base: Path, boxes: Objects, size: tuple[int, int] = SIZE, suffix: str = ".png", **more: Any) -> str:
    more.pop("classes", None)
    for name, found in boxes.items():
        objects = "".join(
            f"<object><name>{label}</name><pose>Left</pose><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin>"
            f"<ymin>{y + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for label, (x, y, right, bottom) in found
        )
        body = (
            f"<?xml version='1.0'?>\n<annotation><folder>VOC</folder><filename>{name}{suffix}</filename><size>"
            f"<width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>{objects}</annotation>"
        )
        text(base / "Annotations" / f"{name}.xml", body)
    return "Annotations"


def yolo(base: Path, boxes: Objects, size: tuple[int, int] = SIZE, folder: str = "labels", **more: Any) -> str:
    classes = more.pop("classes", NAMES)
    height, width = size
    for name, found in boxes.items():
        lines = (
            f"{classes.index(label)} {(x + right) / 2 / width!r} {(y + bottom) / 2 / height!r} {(right - x) / width!r} "
            f"{(bottom - y) / height!r}\n"
            for label, (x, y, right, bottom) in found
        )
        text(base / folder / f"{name}.txt", "".join(lines))
    text(base / "data.yaml", f"path: ../x\ntrain: images\nnc: {len(classes)}\nnames: {json.dumps(list(classes))}\n")
    return folder


WRITERS: Mapping[str, Writer] = {"coco": coco, "openimages": openimages, "voc": voc, "yolo": yolo}


def objects_of(data: Any) -> dict[str, list[tuple[str, list[float]]]]:
    """Name of each example -> its classes and boxes in pixels, two corners."""
    names = data.class_names["box_labels"]
    view, out = data.select(["name", "boxes", "box_labels"]), {}
    for i in range(len(view)):
        example = view[i]
        corners = np.concatenate([example["boxes"][:, :2], example["boxes"][:, :2] + example["boxes"][:, 2:]], axis=1)
        pixels = (corners * np.tile(SIZE[::-1], 2)).round(4).tolist()
        stem = example["name"].rpartition("/")[2].removesuffix(".png")
        out[stem] = [(names[label], box) for label, box in zip(example["box_labels"], pixels, strict=True)]
    return out
