"""The folder reader: class sub-folders, annotations beside the pictures, metadata files, splits, URLs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_core import storage
from ldm_core.builtin.readers.config import FolderConfig
from ldm_core.builtin.readers.folder import FolderDataset, guess_reader, read_metadata, split_path
from ldm_core.contracts import Dataset, Site
from ldm_core.data import images
from ldm_core.data.unreadable import BadExample, SkipBad
from ldm_core.errors import DataError

SITE = Site(size=(16, 16))


def picture(value: int) -> bytes:
    return images.png_bytes(np.full((3, 8, 12), value, dtype=np.uint8))


def fill(base: Any, files: Mapping[str, bytes | str]) -> None:
    for name, data in files.items():
        storage.atomic_write(storage.join(str(base), *name.split("/")), data)


def opened(url: Any, **settings: Any) -> FolderDataset:
    return FolderDataset(FolderConfig(url=str(url), **settings), SITE)


@pytest.mark.parametrize("place", ["local", "memory"])
def test_captions_beside_pictures(place: str, tmp_path: Path) -> None:
    base = str(tmp_path) if place == "local" else f"memory://folder-{tmp_path.name}"
    fill(base, {"b.png": picture(2), "b.txt": "zwei Füße 🦶\n", "a.v1.jpg": picture(1), "a.v1.txt": "one",
                ".hidden/c.png": picture(3), "readme.md": "x"})  # fmt: skip
    data = opened(base)
    assert len(data) == 2 and isinstance(data, Dataset)
    assert [data[i]["name"] for i in range(2)] == ["a.v1", "b"]
    assert [data[i]["caption"] for i in range(2)] == ["one", "zwei Füße 🦶"]
    assert (data[1]["image"] == 2).all() and data.found == {"image": 2, "caption": 2, "name": 2}
    assert pickle.loads(pickle.dumps(data))[1]["caption"] == data[1]["caption"]
    assert guess_reader(base) == "folder"
    if place == "local":
        assert opened(tmp_path.as_uri())[1]["caption"] == "zwei Füße 🦶"


def test_class_sub_folders(tmp_path: Path) -> None:
    fill(tmp_path, {f"{kind}/{n}.png": picture(n) for kind in ("zebra", "ant", "cow") for n in range(3)})
    data = opened(tmp_path)
    assert data.classes == {"class_label": 3} and data.class_names["class_label"] == ("ant", "cow", "zebra")
    assert [data[i]["class_label"] for i in (0, 3, 8)] == [0, 1, 2]
    assert data[8]["name"] == "zebra/2"
    with pytest.raises(
        DataError, match=r"classes.class_label=5: a number, .* names its classes .ant, cow, zebra.; leave"
    ):
        opened(tmp_path, classes={"class_label": "5"})
    (tmp_path / "classes.json").write_text('["zebra", "yak", "cow", "ant"]')
    data = opened(tmp_path)
    assert [data[i]["class_label"] for i in (0, 3, 8)] == [3, 2, 0] and data.classes["class_label"] == 4


def test_one_sub_folder_is_no_class(tmp_path: Path) -> None:
    fill(tmp_path, {"pictures/a.png": picture(1), "pictures/b.png": picture(2)})
    assert "class_label" not in opened(tmp_path).keys


def test_boxes_and_label_maps_beside(tmp_path: Path) -> None:
    label_map = images.png_bytes(np.full((1, 8, 12), 2, dtype=np.uint8))
    fill(tmp_path, {"a.png": picture(1), "a.seg.png": label_map,
                    "a.json": json.dumps({"boxes": [[0, 0, 0.5, 1]], "labels": [1]})})  # fmt: skip
    data = opened(tmp_path)
    assert len(data) == 1 and (data[0]["segmentation"] == 2).all()
    np.testing.assert_allclose(data[0]["boxes"], [[0, 0, 0.5, 1]])
    assert data.classes == {"box_labels": 2, "segmentation": 3}


def test_masks_beside(tmp_path: Path) -> None:
    hole = images.png_bytes(np.full((1, 8, 12), 255, dtype=np.uint8))
    fill(tmp_path, {"a.png": picture(1), "a.mask.png": hole})
    data = opened(tmp_path)
    assert data.keys["mask"] == "map" and (data[0]["mask"] == 255).all() and not data.classes


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_files(tmp_path: Path, kind: str) -> None:
    rows = [{"file_name": f"sub/{n}.png", "text": f'says "{n}", näher', "title": f"t{n}"} for n in range(3)]
    if kind == "jsonl":
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    else:
        lines = [",".join(f'"{value.replace(chr(34), chr(34) * 2)}"' for value in row.values()) for row in rows]
        text = "\ufefffile_name,text,title\r\n" + "\r\n".join(lines) + "\r\n"
    fill(tmp_path, {f"metadata.{kind}": text, **{f"sub/{n}.png": picture(n) for n in range(3)}})
    data = opened(tmp_path)
    assert [data[i]["caption"] for i in range(3)] == [f'says "{n}", näher' for n in range(3)]
    assert opened(tmp_path, read={"caption": "title"})[2]["caption"] == "t2"
    before = data.fingerprint()
    fill(tmp_path, {f"metadata.{kind}": text.replace("says", "SAYS")})
    assert opened(tmp_path).fingerprint() != before
    (tmp_path / "sub" / "1.png").unlink()
    with pytest.raises(DataError, match=rf"metadata\.{kind} line [23]: 'sub/1\.png' is not there\. Correct"):
        opened(tmp_path)


def test_broken_metadata() -> None:
    with pytest.raises(DataError, match="m line 2: not readable as JSON"):
        read_metadata('{"file_name": "a.png"}\n{oops', "metadata.jsonl", "m")
    with pytest.raises(DataError, match=r"m line 2: has no 'file_name'.*this one has 'name', 'text'"):
        read_metadata("name,text\na.png,x\n", "metadata.csv", "m")
    assert read_metadata("file_name,text\na.png,\n", "metadata.csv", "m") == [{"file_name": "a.png"}]


def test_some_captions_missing(tmp_path: Path) -> None:
    fill(tmp_path, {f"{n}.png": picture(n) for n in range(6)})
    fill(tmp_path, {f"{n}.txt": "x" for n in range(1, 5)})
    with pytest.raises(DataError, match=r"2 of 6 samples have no 'caption' \(0\.png, 5\.png\)"):
        opened(tmp_path).select(["image", "caption"])
    assert len(opened(tmp_path, missing="skip").select(["image", "caption"])) == 4


def test_splits_are_top_folders(tmp_path: Path) -> None:
    fill(tmp_path, {"train/cat/a.png": picture(1), "train/dog/b.png": picture(2), "validation/dog/c.png": picture(3)})
    data = opened(tmp_path)
    assert [data[i]["name"] for i in range(2)] == ["cat/a", "dog/b"]
    assert data.class_names["class_label"] == ("cat", "dog")
    assert opened(tmp_path, split="val")[0]["name"] == "dog/c"
    with pytest.raises(DataError, match="no split 'test'; found train, validation"):
        opened(tmp_path, split="test")


def test_a_text_file_called_jpg(tmp_path: Path) -> None:
    fill(tmp_path, {f"{n}.png": picture(n) for n in range(5)})
    fill(tmp_path, {"3.png": "I am text"})
    data = opened(tmp_path)
    with pytest.raises(BadExample, match=r"3\.png: not a picture"):
        _ = data[3]
    assert SkipBad(data)[3]["name"] == "4"


def test_wrong_urls(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder by that name; check the URL"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no pictures; looked for \.jpg.*found an empty folder"):
        opened(tmp_path)
    fill(tmp_path, {"notes.txt": "x"})
    with pytest.raises(DataError, match=r"no pictures; .*found notes\.txt"):
        opened(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        guess_reader(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="`dataset`: empty"):
        guess_reader(" ")
    assert guess_reader("s3://bucket/x-{000000..000003}.tar") == "tar"


def test_names_are_split_at_the_last_dot() -> None:
    assert split_path("a/b.c.JPG") == ("a/b.c", "jpg")
    assert split_path("a/b.seg.png") == ("a/b", "seg.png")
    assert split_path("a/README") == ("a/README", "")


GAPS = ["0", "1", "2", "10", "11"]


@pytest.mark.parametrize(
    "names, labels, indices",
    [
        (GAPS, ["10", "2", "11"], [3, 2, 4]),
        (["1", "2", "3"], ["1", "2", "1"], [0, 1, 0]),
        (["10", "2", "1"], ["1", "2", "10"], [2, 1, 0]),
        (["1", "2", "3"], ["0", "2", "1"], [0, 2, 1]),  # 0 is no name: these are indices
        (["cat", "dog", "2"], ["0", "1", "2"], [0, 1, 2]),
        (["cat", "dog", "cow"], ["2", "1", "0"], [2, 1, 0]),
    ],
)
@pytest.mark.parametrize("form", ["cls", "json", "boxes", "rows"])
def test_classes_that_are_called_by_numbers(
    tmp_path: Path, names: list[str], labels: list[str], indices: list[int], form: str
) -> None:
    """Where every number in the data is the name of a class, it is taken by its name, however it is written."""
    fill(tmp_path, {f"{i}.png": picture(i) for i in range(3)} | {"classes.json": json.dumps(names)})
    for i, label in enumerate(labels):
        if form == "cls":
            (tmp_path / f"{i}.cls").write_text(label)
        elif form != "rows":
            boxes = {"boxes": [[0, 0, 1, 1]], "labels": [int(label)]}
            (tmp_path / f"{i}.json").write_text(json.dumps(boxes if form == "boxes" else {"label": int(label)}))
    if form == "rows":
        rows = [json.dumps({"file_name": f"{i}.png", "label": int(label)}) for i, label in enumerate(labels)]
        (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    data = opened(tmp_path)
    key = "box_labels" if form == "boxes" else "class_label"
    assert [int(np.ravel(data[i][key])[0]) for i in range(3)] == indices
    assert data.class_names[key] == tuple(names)
