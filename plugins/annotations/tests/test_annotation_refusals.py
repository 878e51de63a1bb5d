"""Annotations held to their data: broken and hostile files, pictures, classes, boxes and splits, one line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotation_files import BOXES, NAMES, WRITERS, coco, fill, objects_of, opened, openimages, picture, text, voc, yolo

from ldm_core.data.unreadable import BadExample
from ldm_core.errors import ConfigError, DataError, NoSplit


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
        (lambda b: b["annotations"][0].update(category_id=[1]), "is no category"),
        (lambda b: b["annotations"][0].update(bbox=[0, 0, 10**350, 1]), "expected .x, y, width, height. in pixels"),
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


def test_classes_called_by_numbers_are_told_by_their_places(tmp_path: Path) -> None:
    base = fill(tmp_path / "data", "x")
    coco(base, {"c": BOXES["c"], "a": BOXES["a"]})
    plain = objects_of(opened(base, "instances.json", missing="skip"))
    body = json.loads((base / "instances.json").read_text())
    rows = sorted(body["categories"], key=lambda row: row["id"])
    called = {row["name"]: str((place + 1) % len(rows)) for place, row in enumerate(rows)}
    for row in rows:
        row["name"] = called[row["name"]]
    text(base / "instances.json", json.dumps(body))
    found = objects_of(opened(base, "instances.json", missing="skip"))
    assert found == {stem: [(called[name], box) for name, box in each] for stem, each in plain.items()}


def test_pictures_are_found_among_the_datas_own_alone(tmp_path: Path) -> None:
    base = fill(tmp_path / "data", "x")
    outside = tmp_path / "secret.png"
    picture(outside)
    for named in ("a.png", "x/a.png", "data/x/a.png", "C:\\work\\a.png", "/photos/a.png", ".\\x\\a.png", "a.jpg"):
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


def test_a_number_of_classes_goes_with_numbers_alone(tmp_path: Path) -> None:
    said = r"classes.box_labels=9: a number, and the data names its classes \(cat, dog, kite\); leave it out, or give a"
    for kind, write in WRITERS.items():
        fill(tmp_path / kind, "images" if kind == "yolo" else "")
        files = write(tmp_path / kind, BOXES)
        with pytest.raises(DataError, match=said) as caught:
            opened(tmp_path / kind, files, classes={"box_labels": "9"})
        assert "\n" not in str(caught.value)
    (tmp_path / "yolo" / "data.yaml").unlink()
    data = opened(tmp_path / "yolo", "labels", classes={"box_labels": "9"})
    assert data.classes == {"box_labels": 9} and not data.class_names
    few = {"classes": {"box_labels": "2"}}
    with pytest.raises(DataError, match=r"labels/c.txt.*: no class 2 \(known: numbers from 0 to 1\); correct it, or"):
        opened(tmp_path / "yolo", "labels", **few)
    data = opened(tmp_path / "yolo", "labels", missing="skip", **few)
    assert data.classes == {"box_labels": 2} and "1 x box of an unknown class (2)" in data.describe()


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
