"""Four formats against hand-written files, the shared data in all of them, and what each refuses."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_core.builtin.readers.config import FolderConfig, TarConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.data import images
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import ConfigError, DataError, NoSplit
from ldm_core.testing import PluginSuite

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "bccd"
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


class TestPlugin(PluginSuite):
    module = "ldm_plugin_annotations.plugin"


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


# ------------------------------------------------------------------------------------------ what is refused


def changed(base: Path, change: Callable[[dict[str, Any]], None]) -> str:
    coco(fill(base), BOXES)
    body = json.loads((base / "instances.json").read_text())
    change(body)
    text(base / "instances.json", json.dumps(body))
    return "instances.json"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b.pop("categories"), "has no list of 'categories'"),
        (lambda b: b["images"].append(7), "has no list of 'images'"),
        (lambda b: b["annotations"].append([]), "'annotations' is no list of objects"),
        (lambda b: b["annotations"][0].update(image_id=9), "annotation 0: image_id 9 is none of 'images'"),
        (lambda b: b["annotations"][0].update(category_id=9), "annotation 0: category_id 9 is no category"),
        (lambda b: b["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 0: bbox is \[1, 2, 3\], expected"),
        (lambda b: b["annotations"][0].update(bbox=[1, 2, True, 3]), "expected .x, y, width, height. in pixels"),
        (lambda b: b["categories"].append({"id": 3, "name": "x"}), "the category .* is there twice"),
        (lambda b: b["categories"].append({"id": "x", "name": "x"}), "needs a number 'id'"),
        (lambda b: b["images"][0].update(file_name=None), "needs an 'id' and a text 'file_name'"),
        (lambda b: b["images"][1].update(id=100), "the image id 100 is there twice"),
    ],
)
def test_broken_coco_files_are_one_line(tmp_path: Path, change: Any, said: str) -> None:
    files = changed(tmp_path, change)
    with pytest.raises(DataError, match=said) as caught:
        opened(tmp_path, files)
    assert str(caught.value).startswith("instances.json: ") and "\n" not in str(caught.value)


def test_json_is_bounded(tmp_path: Path) -> None:
    fill(tmp_path)
    text(tmp_path / "x.json", '{"images": [' + "[" * 100 + "]" * 100 + "]}")
    with pytest.raises(DataError, match="nested too deeply"):
        opened(tmp_path, "x.json")
    text(tmp_path / "x.json", '{"images": [1e999999')
    with pytest.raises(DataError, match=r"x.json: not readable as JSON"):
        opened(tmp_path, "x.json")


BILLION = "<!DOCTYPE annotation [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>"
OUTSIDE = "<!DOCTYPE annotation [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
REMOTE = "<!DOCTYPE annotation SYSTEM 'http://127.0.0.1:1/x.dtd'>"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BILLION + "<annotation><filename>&b;</filename></annotation>", "holds a DOCTYPE or entities"),
        (OUTSIDE + "<annotation><filename>&x;</filename></annotation>", "holds a DOCTYPE or entities"),
        (REMOTE + "<annotation/>", "holds a DOCTYPE or entities"),
        ("<annotation><object><name>&x;</name></object></annotation>", "not readable as XML .undefined entity"),
        ("<annotation>" + "<a>" * 40 + "</a>" * 40 + "</annotation>", "more elements, or deeper ones"),
        ("<annotation>" + "<a/>" * 500_001 + "</annotation>", "more elements, or deeper ones"),
        ("<annotation><object>", "not readable as XML"),
        ("<other><annotation/></other>", "its root is <other>"),
        ("<annotation><object><name>cat</name></object></annotation>", "bndbox is .*, expected four numbers"),
        ("<annotation><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>"
         "</annotation>", "an object has no 'name'"),
        ("<?xml version='1.0' encoding='nonsense'?><annotation/>", "not readable as XML"),
    ],
)  # fmt: skip
def test_hostile_and_broken_xml_is_one_line_and_opens_nothing(tmp_path: Path, content: str, said: str) -> None:
    voc(fill(tmp_path), BOXES)
    text(tmp_path / "Annotations" / "a.xml", content)
    seen: list[str] = []
    watching = [True]
    sys.addaudithook(
        lambda event, args: seen.append(str(args)) if watching and event in ("open", "socket.connect") else None
    )
    try:
        with pytest.raises(DataError, match=said) as caught:
            opened(tmp_path, "Annotations")
    finally:
        watching.clear()
    assert "a.xml" in str(caught.value) and "\n" not in str(caught.value)
    assert not [each for each in seen if "passwd" in each or "127.0.0.1" in each]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("7 0.5 0.5 0.1 0.1", "class '7', there are 3"),
        ("0 0.5 0.5 0.1 0.1 0.9", "holds an outline or a score, expected a class"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5", "holds an outline or a score"),
    ],
)
def test_broken_yolo_lines(tmp_path: Path, content: str, said: str) -> None:
    yolo(fill(tmp_path), BOXES)
    text(tmp_path / "labels" / "c.txt", content)
    with pytest.raises(DataError, match=f"labels/c.txt line 1: {said}"):
        opened(tmp_path, "labels")


def test_broken_openimages_rows(tmp_path: Path) -> None:
    openimages(fill(tmp_path), BOXES)
    path = tmp_path / "train-annotations-bbox.csv"
    good = path.read_text()
    for old, new, said in (
        ("/m/02", "/m/99", "line 4: the LabelName '/m/99' is not in the class descriptions"),
        ("0.7625", "x", "line 4: XMin, XMax, YMin, YMax are .* expected numbers"),
        ("c,xclick,", "c,", "line 4: 12 cells where the header has 13"),
    ):
        path.write_text(good.replace(old, new))
        with pytest.raises(DataError, match=said):
            opened(tmp_path, path.name, missing="skip")
    path.write_bytes(good.encode() + b"c,\xff\xfe")
    with pytest.raises(DataError, match="line 5: is not UTF-8 text"):
        opened(tmp_path, path.name, missing="skip")


# ------------------------------------------------------------------------------ pictures, classes, boxes, splits


def test_pictures_are_found_among_the_datas_own_alone(tmp_path: Path) -> None:
    base = fill(tmp_path / "data", "x")
    outside = tmp_path / "secret.png"
    picture(outside)
    for named in ("a.png", "x/a.png", "data/x/a.png", "C:\\work\\a.png", "/home/me/a.png", ".\\x\\a.png", "a.jpg"):
        coco(base, {"c": BOXES["c"], "a": BOXES["a"]})
        body = json.loads((base / "instances.json").read_text())
        body["images"][1]["file_name"] = named
        text(base / "instances.json", json.dumps(body))
        assert len(objects_of(opened(base, "instances.json", missing="skip"))["a"]) == 2, named
    for named in ("../secret.png", str(outside), "y/a.png", "../x/../../secret.png"):
        body["images"][1]["file_name"] = named
        text(base / "instances.json", json.dumps(body))
        data = opened(base, "instances.json", missing="skip")
        assert set(objects_of(data)) == {"c"}
        assert "1 x annotated picture that is not there" in data.describe(), named
    coco(base, {"zz": BOXES["a"]})
    with pytest.raises(DataError, match=r"none of the 1 annotated pictures is in .*'zz.png' is not, the data has 'x/a"):
        opened(base, "instances.json")
    picture(base / "y" / "a.png")
    coco(base, {"a": BOXES["a"]})
    with pytest.raises(DataError, match=r"'a.png' may be 'x/a.png' or 'y/a.png'; say its folder"):
        opened(base, "instances.json")


def test_pictures_without_annotations_stop_the_run_or_are_left_out(tmp_path: Path) -> None:
    files = coco(fill(tmp_path, names=("a", "b", "c", "d")), BOXES)
    with pytest.raises(DataError, match=r"1 of 4 samples have no 'boxes' \(d.png\)"):
        opened(tmp_path, files).select(["image", "boxes"])
    view = opened(tmp_path, files, missing="skip").select(["image", "boxes"])
    assert len(view) == 3 and view.skipped == 1


def test_boxes_outside_are_bad_examples_with_their_place(tmp_path: Path) -> None:
    files = coco(fill(tmp_path), {**BOXES, "b": [("cat", (30, 5, 70, 9))], "c": [("kite", (-1, 0, 41, 20))]})
    view = opened(tmp_path, files).select(["boxes"])
    with pytest.raises(
        BadExample, match=r"b.png: boxes: instances.json: box 0.* reaches 30 past the right edge.*there"
    ):
        _ = view[1]
    assert view[2]["boxes"].tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_classes_of_ones_own(tmp_path: Path) -> None:
    files = voc(fill(tmp_path), BOXES)
    assert opened(tmp_path, files).class_names == {"box_labels": NAMES}  # alphabetical
    text(tmp_path / "classes.json", '["kite", "dog", "cat"]')
    assert opened(tmp_path, files).class_names == {"box_labels": ("kite", "dog", "cat")}
    text(tmp_path / "mine.json", '["dog", "kites"]')
    own = {"classes": {"box_labels": "mine.json"}}
    with pytest.raises(DataError, match=r"no class 'cat' \(known: dog, kites\); correct it, or leave such boxes out"):
        opened(tmp_path, files, **own)
    data = opened(tmp_path, files, missing="skip", **own)
    assert [label for label, _ in objects_of(data)["a"]] == ["dog"] and objects_of(data)["c"] == []
    assert "2 x box of an unknown class (cat)" in data.describe()


def test_annotations_of_the_split_that_is_read(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "d")):
        picture(tmp_path / split / f"{name}.png")
        coco(tmp_path / "annotations", {name: BOXES["a"]})
        (tmp_path / "annotations" / "instances.json").rename(tmp_path / "annotations" / f"instances_{split}2017.json")
    for files in ("annotations", "annotations/instances_train2017.json", "annotations/*2017.json"):
        assert set(objects_of(opened(tmp_path, files))) == {"a"}
        assert set(objects_of(opened(tmp_path, files, split="val"))) == {"d"}
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(NoSplit, match="of another split than 'val'"):
        opened(tmp_path, "annotations", split="val")
    elsewhere = tmp_path / "elsewhere" / "instances_val2017.json"
    coco(elsewhere.parent, {"d": BOXES["a"]})
    (elsewhere.parent / "instances.json").rename(elsewhere)
    assert set(objects_of(opened(tmp_path / "val", str(elsewhere)))) == {"d"}
    assert set(objects_of(opened(tmp_path / "val", "../elsewhere/instances_val2017.json"))) == {"d"}


def test_settings_that_lead_nowhere_are_one_line(tmp_path: Path) -> None:
    fill(fill(tmp_path), "sub")
    for asked, said in (
        ("nothing.json", "names 'nothing.json', neither in the data nor a path of its own"),
        ("sub", "names nothing but pictures"),
        ({"use": "coco", "files": "x.txt"}, "x.txt: holds no annotations of the format coco"),
        ("x.txt", r"x.txt: holds no annotations of coco, .*openimages, voc, yolo"),
    ):
        text(tmp_path / "x.txt", "words")
        with pytest.raises(DataError, match=said):
            opened(tmp_path, asked)
    with pytest.raises(ConfigError, match=r"crowds: settings of a format; name it too, as use=coco"):
        opened(tmp_path, {"files": "x.txt", "crowds": True})
    with pytest.raises(ConfigError, match=r"dataset.annotations.crowd: unknown key"):
        opened(tmp_path, {"use": "coco", "files": "x.txt", "crowd": True})
    with pytest.raises(ValueError, match="annotations: expected a path, or a mapping such as"):
        opened(tmp_path, {"use": "coco"})
