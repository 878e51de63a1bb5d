"""Four formats against hand-written files, the shared data in all of them, and pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import (
    BOXES,
    NAMES,
    SITE,
    WRITERS,
    coco,
    fill,
    objects_of,
    opened,
    openimages,
    picture,
    text,
    voc,
    yolo,
)

from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Site
from ldm_core.testing import PluginSuite

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "bccd"


class TestPlugin(PluginSuite):
    module = "ldm_plugin_annotations.plugin"


@pytest.mark.parametrize("kind", WRITERS)
def test_boxes_and_names_come_back(tmp_path: Path, kind: str) -> None:
    """Of pictures in a folder, by content and by name; the picture without objects has none, where that can be said."""
    fill(tmp_path, "images" if kind == "yolo" else "")
    files = WRITERS[kind](tmp_path, BOXES)
    expected = {name: [(label, list(map(float, box))) for label, box in found] for name, found in BOXES.items()}
    skip: dict[str, Any] = {}
    if kind == "openimages":  # a picture without a row is unknown to it
        del expected["b"]
        skip = {"missing": "skip"}
    data = opened(tmp_path, files, **skip)
    assert objects_of(data) == expected and data.class_names == {"box_labels": NAMES}
    assert data.classes == {"box_labels": 3} and data.keys["boxes"] == "boxes"
    named = opened(tmp_path, {"use": kind, "files": files}, **skip)
    assert objects_of(named) == expected and named.fingerprint() == data.fingerprint()
    WRITERS[kind](tmp_path, {**BOXES, "c": [("kite", (30, 10, 38, 15))]})
    assert opened(tmp_path, files, **skip).fingerprint() != data.fingerprint()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the project")
@pytest.mark.parametrize("kind", WRITERS)
def test_shared_boxes_are_the_same_in_every_format(tmp_path: Path, kind: str) -> None:
    """Real boxes from a tar: written as the format has them, read back beside the same tar."""
    tar = SHARED / "bccd-val-000000.tar"
    site = Site(size=(96, 128), catalog=SITE.catalog)
    own = TarDataset(TarConfig(url=str(tar), split="val"), site)
    view, size = own.select(["name", "boxes", "box_labels"]), (480, 640)
    classes = own.class_names["box_labels"]
    boxes: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {}
    for i in range(len(view)):
        example = view[i]
        x, y, w, h = example["boxes"].astype(np.float64).T
        corners = np.stack([x * 640, y * 480, (x + w) * 640, (y + h) * 480], axis=1).tolist()
        boxes[example["name"]] = [(classes[n], tuple(c)) for n, c in zip(example["box_labels"], corners, strict=True)]
    beside = tmp_path / "val.tar"
    beside.write_bytes(tar.read_bytes())
    (tmp_path / "classes.json").write_bytes((SHARED / "classes.json").read_bytes())
    extra: dict[str, Any] = {"suffix": ".jpg"} if kind in ("coco", "voc") else {}
    files = WRITERS[kind](tmp_path, boxes, size, classes=classes, **extra)
    (tmp_path / "train-annotations-bbox.csv").exists() and (tmp_path / "train-annotations-bbox.csv").rename(
        tmp_path / "val-annotations-bbox.csv"
    )
    said = files.replace("train-", "val-") if kind in ("coco", "openimages") else str(tmp_path / files)
    data = TarDataset(TarConfig(url=str(beside), split="val", annotations=said), site)
    again = data.select(["name", "boxes", "box_labels"])
    assert len(again) == len(view) and data.class_names["box_labels"] == classes
    for i in range(len(view)):
        np.testing.assert_allclose(again[i]["boxes"], view[i]["boxes"], atol=3e-6)
        assert again[i]["box_labels"].tolist() == view[i]["box_labels"].tolist()


def test_coco_as_pycocotools_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools = pytest.importorskip("pycocotools.coco")
    files = coco(fill(tmp_path), BOXES)
    theirs = tools.COCO(str(tmp_path / files))
    data = objects_of(opened(tmp_path, files))
    for row in theirs.loadImgs(theirs.getImgIds()):
        found = theirs.loadAnns(theirs.getAnnIds(imgIds=row["id"]))
        mine = data[row["file_name"].removesuffix(".png")]
        names = {c["id"]: c["name"] for c in theirs.loadCats(theirs.getCatIds())}
        assert [names[a["category_id"]] for a in found] == [label for label, _ in mine]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in found)]
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), np.reshape([b for _, b in mine], (-1, 4)), atol=1e-3)


# ------------------------------------------------------------------------------------------ settings of formats


def test_crowds_groups_and_difficult_objects_are_counted_or_taken(tmp_path: Path) -> None:
    fill(tmp_path / "c")
    coco(tmp_path / "c", BOXES)
    body = json.loads((tmp_path / "c" / "instances.json").read_text())
    body["annotations"][0]["iscrowd"] = 1
    text(tmp_path / "c" / "instances.json", json.dumps(body))
    data = opened(tmp_path / "c", "instances.json")
    assert [label for label, _ in objects_of(data)["a"]] == ["cat"]
    assert "1 x crowd region (instances.json)" in data.describe()
    taken = opened(tmp_path / "c", {"use": "coco", "files": "instances.json", "crowds": True})
    assert [label for label, _ in objects_of(taken)["a"]] == ["dog", "cat"]
    assert taken.fingerprint() != data.fingerprint()

    fill(tmp_path / "o")
    openimages(tmp_path / "o", BOXES)
    rows = (tmp_path / "o" / "train-annotations-bbox.csv").read_text().splitlines()
    rows[1] = rows[1].removesuffix("0,0,0,0,0") + "0,0,1,0,0"
    rows[2] = rows[2].removesuffix("0,0,0,0,0") + "0,0,0,1,0"
    text(tmp_path / "o" / "train-annotations-bbox.csv", "\n".join(rows))
    for settings, labels in (
        ({}, ["cat"]), ({"groups": True}, ["dog", "cat"]), ({"depictions": False}, [])
    ):  # fmt: skip
        asked = {"use": "openimages", "files": "train-annotations-bbox.csv", **settings}
        found = objects_of(opened(tmp_path / "o", asked, missing="skip"))
        assert [label for label, _ in found["a"]] == labels

    fill(tmp_path / "v")
    voc(tmp_path / "v", BOXES)
    path = tmp_path / "v" / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1).replace("<xmin>5<", "<xmin>4<"))
    asked = {"use": "voc", "files": "Annotations", "difficult": False, "first_pixel": 0}
    found = objects_of(opened(tmp_path / "v", asked))
    assert found["a"] == [("cat", [1.0, 1.0, 40.0, 20.0])]
    assert "1 x difficult object" in opened(tmp_path / "v", asked).describe()
    assert objects_of(opened(tmp_path / "v", {**asked, "difficult": True}))["a"][0] == ("dog", [4.0, 3.0, 14.0, 12.0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "cat\ndog\r\nkite\n"),
        ("obj.names", "cat\ndog\nkite"),
        ("data.yaml", "names: {0: cat, 1: dog, 2: kite}"),
        ("labels/classes.txt", "cat\ndog\nkite"),
    ],
)
def test_lists_of_yolo_classes(tmp_path: Path, name: str, content: str) -> None:
    fill(tmp_path, "images/train")
    picture(tmp_path / "images" / "val" / "d.png")
    yolo(tmp_path, BOXES, folder="labels/train")
    yolo(tmp_path, {"d": [("dog", (0, 0, 8, 8))]}, folder="labels/val")
    (tmp_path / "data.yaml").unlink()
    numbers = opened(tmp_path, "labels")
    assert "box_labels" not in numbers.class_names and numbers.classes["box_labels"] == 3
    text(tmp_path / name, content)
    data = opened(tmp_path, "labels")
    assert objects_of(data)["c"][0][0] == "kite" and data.class_names == {"box_labels": NAMES}
    assert objects_of(opened(tmp_path, "labels", split="val")) == {"d": [("dog", [0.0, 0.0, 8.0, 8.0])]}


def test_yolo_labels_beside_the_pictures_are_no_captions(tmp_path: Path) -> None:
    yolo(fill(tmp_path), BOXES, folder=".")
    data = opened(tmp_path, ".")
    assert objects_of(data)["a"][0] == ("dog", [4.0, 2.0, 14.0, 12.0])
    assert "caption" not in data.keys
