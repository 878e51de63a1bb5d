"""The reader of Parquet files against arrays that pyarrow wrote, rows by number."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ldm_plugin_parquet.config import ParquetConfig
from ldm_plugin_parquet.dataset import ParquetDataset
from parquet_files import IMAGE, NAMES, features, pixels, png, rows, two_shards, write
from PIL import Image

from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.data.records.guess import guess_reader
from ldm_core.data.unreadable import BadExample, SkipBad, TooManyBad
from ldm_core.errors import DataError, NoSplit
from ldm_core.testing import DatasetSuite, PluginSuite

CLASSES = {"names": list(NAMES), "_type": "ClassLabel"}


class TestPlugin(PluginSuite):
    module = "ldm_plugin_parquet.plugin"


class TestParquet(DatasetSuite):
    component = "parquet"
    other_settings: ClassVar[Mapping[str, Any]] = {"split": "val"}

    def make_data(self, folder: Path) -> Mapping[str, Any]:
        return {"url": str(two_shards(folder))}


def made(url: Path | str, **settings: Any) -> ParquetDataset:
    return ParquetDataset(ParquetConfig(url=str(url), **settings), Site(size=(8, 8)))


def test_rows_are_those_that_were_written(tmp_path: Path) -> None:
    data = made(two_shards(tmp_path))
    assert len(data) == 12 and dict(data.classes) == {"class_label": 3}
    assert dict(data.class_names) == {"class_label": NAMES}
    assert dict(data.keys) == {"image": "image", "caption": "value", "class_label": "value", "name": "value"}
    for index in (11, 0, 6, 7, 3, 2):
        example = data[index]
        assert np.array_equal(example["image"], pixels(index).transpose(2, 0, 1))
        assert (example["caption"], example["class_label"]) == (f"picture {index}", index % 3)
        shard, row = divmod(index, 7)
        assert example["name"] == f"train-0000{shard}-of-00002:{row}"
    assert data.labels("class_label").tolist() == [n % 3 for n in range(12)]
    assert data.image_size(3) == (8, 6) and data.image_sizes().tolist() == [[8, 6]] * 12
    assert data.image_form(0) == "PNG RGB"
    assert data.describe().endswith("12 rows in 2 files with image, caption, class_label, name")
    held = made(tmp_path, split="val")  # there is no val, validation or dev, so it is test
    assert [held[i]["caption"] for i in range(len(held))] == ["picture 100", "picture 101"]


@pytest.mark.parametrize(
    "files, split, found",
    [
        (["train-0.parquet", "validation-0.parquet", "test-0.parquet"], "val", "validation"),
        (["default/train/0000.parquet", "default/test/0000.parquet"], "train", "train"),
        (["0000.parquet", "0001.parquet"], "train", "00"),
        (["data/train-00000-of-00001-abc.parquet", "data/test-0.parquet"], "test", "test"),
    ],
)
def test_splits_are_in_names_of_files_or_folders(tmp_path: Path, files: list[str], split: str, found: str) -> None:
    for number, name in enumerate(files):
        write(tmp_path / name, rows(10 * number, 1))
    data = made(tmp_path, split=split)
    wanted = [number for number, name in enumerate(files) if found in name]
    assert [data[i]["caption"] for i in range(len(data))] == [f"picture {10 * n}" for n in wanted]
    with pytest.raises(NoSplit):
        made(tmp_path, split="other")


def test_a_file_and_a_pattern_are_data(tmp_path: Path) -> None:
    two_shards(tmp_path)
    assert len(made(tmp_path / "train-00001-of-00002.parquet")) == 5
    assert len(made(f"{tmp_path}/train-*.parquet")) == len(made(f"{tmp_path}/train-0000{{0,1}}-of-00002.parquet")) == 12
    catalog = Catalog.discover()
    for place in (tmp_path, tmp_path / "train-00001-of-00002.parquet", f"{tmp_path}/train-*.parquet"):
        assert guess_reader(str(place), catalog) == "parquet"


def test_a_repository_with_its_files_in_data_is_recognised(tmp_path: Path) -> None:
    two_shards(tmp_path / "data")
    (tmp_path / "README.md").write_text("# a data set")
    assert guess_reader(str(tmp_path), Catalog.discover()) == "parquet"


def test_plain_bytes_and_other_columns_go_by_read(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "photo": [png(pixels(n)) for n in range(4)],
        "title": [f"t{n}" for n in range(4)],
        "kind": ["b", "a", "b", "c"],
        "score": [0.5, 1.5, 2.5, 3.5],
    }
    path = write(tmp_path / "x.parquet", columns, {"photo": pa.binary()})
    data = made(path)
    assert set(data.keys) == {"image", "name"} and "title (string)" not in data.describe()
    assert "columns not read: title, kind, score" in data.describe()
    with pytest.raises(DataError, match=r"has no 'caption'; columns are photo, title, kind, score; say which holds it"):
        data.select(["image", "caption"])
    data = made(path, read={"caption": "title", "class_label": "kind", "score": "score"})
    assert data[2]["caption"] == "t2" and data[2]["class_label"] == 1 and data[2]["score"] == 2.5
    assert dict(data.class_names) == {"class_label": ("a", "b", "c")}
    with pytest.raises(DataError, match=r"read.caption: no column 'score' of such values; there are photo \(binary\)"):
        made(path, read={"caption": "score"})


@pytest.mark.parametrize("nested", ["struct of lists", "list of structs"])
def test_boxes_of_objects(tmp_path: Path, nested: str) -> None:
    boxes, kinds = [[[1.0, 2.0, 3.0, 4.0]], []], [[2], []]
    objects: list[Any]
    if nested == "struct of lists":
        objects = [{"bbox": b, "category": k} for b, k in zip(boxes, kinds, strict=True)]
        feature: Any = {"bbox": None, "category": {"feature": CLASSES, "_type": "List"}}
    else:
        objects = [
            [{"bbox": b, "category": k} for b, k in zip(*each, strict=True)] for each in zip(boxes, kinds, strict=True)
        ]
        feature = {"feature": {"bbox": None, "category": CLASSES}, "_type": "List"}
    item = pa.struct([("bbox", pa.list_(pa.float32())), ("category", pa.int64())])
    kind = (
        pa.struct([("bbox", pa.list_(pa.list_(pa.float32()))), ("category", pa.list_(pa.int64()))])
        if nested == "struct of lists"
        else pa.list_(item)
    )
    columns = {"image": rows(0, 2)["image"], "objects": objects}
    path = write(tmp_path / "x.parquet", columns, {"objects": kind}, named={"objects": feature})
    data = made(path, box_units="pixel", box_format="xywh")
    assert np.allclose(data[0]["boxes"], [[1 / 6, 2 / 8, 3 / 6, 4 / 8]]) and data[0]["box_labels"].tolist() == [2]
    assert data[1]["boxes"].shape == (0, 4) and data[1]["box_labels"].tolist() == []
    assert dict(data.class_names) == {"box_labels": NAMES}


def test_maps_masks_vectors_and_several_captions(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(8, 6) % 5
    columns = {
        "image": rows(0, 2)["image"],
        "segmentation": [{"bytes": png(grey), "path": None}] * 2,
        "mask": [{"bytes": png((grey > 2).astype(np.uint8) * 255), "path": None}] * 2,
        "captions": [["one", "two"], ["three"]],
        "embedding": [[0.5, 1.0], [2.0, 3.0]],
    }
    types = {
        "segmentation": IMAGE,
        "mask": IMAGE,
        "captions": pa.list_(pa.string()),
        "embedding": pa.list_(pa.float32()),
    }
    data = made(write(tmp_path / "x.parquet", columns, types))
    example = data[0]
    assert np.array_equal(example["segmentation"], grey) and np.array_equal(example["mask"], (grey > 2) * 255)
    assert example["caption"] == "one" and example["caption"].texts == ("one", "two") and data.many_captions
    assert example["embedding"].tolist() == [0.5, 1.0] and data.classes["segmentation"] == 5


def test_gaps_are_an_error_or_left_out(tmp_path: Path) -> None:
    columns = rows(0, 6)
    columns["text"][4] = None
    columns["label"][1] = None
    columns["label"][2] = -1  # as datasets writes "no label"
    path = write(tmp_path / "x.parquet", columns, named=features())
    data = made(path)
    assert data.found == {"image": 6, "caption": 5, "class_label": 4, "name": 6}
    with pytest.raises(DataError, match=r"1 of 6 rows have no 'caption' \(x:4\); add them, or leave"):
        data.select(["image", "caption"])
    view = made(path, missing="skip").select(["caption", "class_label", "name"])
    assert [view[i]["name"] for i in range(len(view))] == ["x:0", "x:3", "x:5"] and view.skipped == 3
    assert view.labels("class_label").tolist() == [0, 0, 2]


@pytest.mark.parametrize("statistics", [True, False])
def test_broken_rows_are_named_and_passed_over(tmp_path: Path, statistics: bool) -> None:
    columns = rows(0, 200)
    columns["image"][3]["bytes"] = columns["image"][3]["bytes"][:40]
    columns["image"][5] = {"bytes": b"no picture", "path": None}
    path = write(tmp_path / "x.parquet", columns, named=features(), write_statistics=statistics)
    data = SkipBad(made(path, max_bad=0.05), 0.05)
    assert np.array_equal(data[3]["image"], data[4]["image"])
    assert data[5]["caption"] == "picture 6" and set(data.bad) == {"x:3", "x:5"}
    with pytest.raises(TooManyBad, match=r"x:3"):
        strict = SkipBad(made(path, max_bad=0), 0)
        _ = strict[3]


def test_a_name_of_a_file_is_never_opened(tmp_path: Path) -> None:
    """Only the bytes in the column count, whatever the path beside them says."""
    (tmp_path / "secret.png").write_bytes(png(pixels(9)))
    columns = rows(0, 3)
    columns["image"][1] = {"bytes": None, "path": str(tmp_path / "secret.png")}
    path = write(tmp_path / "x.parquet", columns)
    data = made(path, missing="skip")
    assert data.found["image"] == 2 and "names of files in the picture's column are not followed" in data.describe()
    columns["image"] = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 3
    with pytest.raises(DataError, match="no row has the bytes of a picture; names of files alone are not followed"):
        made(write(tmp_path / "y.parquet", columns))


def test_damage_is_an_error_with_the_files_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", rows(0, 3))
    whole = path.read_bytes()
    for name, data, said in (
        ("short", whole[:-200], "is no Parquet file, or damaged"),
        ("none", b"text", "is no Parquet file, or damaged"),
        ("empty", b"", "is no Parquet file, or damaged"),
        ("long", whole[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1", "is no Parquet file, or damaged"),
    ):
        bad = tmp_path / f"{name}.parquet"
        bad.write_bytes(data)
        with pytest.raises(DataError, match=said) as caught:
            made(bad)
        assert bad.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_row_group_spoils_its_rows_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", rows(0, 300), group=100, compression="zstd", write_page_checksum=True)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = (place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    found = made(path)
    assert np.array_equal(found[0]["image"], pixels(0).transpose(2, 0, 1))
    assert np.array_equal(found[299]["image"], pixels(299).transpose(2, 0, 1))
    with pytest.raises(BadExample, match=r"^x:150: its row group does not read \(.*\); write or copy the file again"):
        _ = found[150]


def test_files_of_other_columns_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows(0, 2), named=features())
    write(tmp_path / "b.parquet", rows(2, 2), named=features(label={"names": ["x", "y", "z"], "_type": "ClassLabel"}))
    with pytest.raises(DataError, match=r"b: has other columns than a \(class_label\); read them as data sets"):
        made(tmp_path)


@pytest.mark.parametrize("keep", [0, 4000, 1 << 29])
def test_memory_for_row_groups_is_bounded_and_changes_nothing(tmp_path: Path, keep: int) -> None:
    data = made(two_shards(tmp_path), keep_bytes=keep)
    for index in np.random.default_rng(0).permutation(12):
        assert np.array_equal(data[int(index)]["image"], pixels(int(index)).transpose(2, 0, 1))
        kept = sum(piece.nbytes for pieces in data._rows._files._kept.values() for piece in pieces)
        assert kept <= keep and kept == data._rows._files._bytes


def test_only_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    view = made(two_shards(tmp_path)).select(["caption"])
    assert [view[i]["caption"] for i in range(12)] == [f"picture {n}" for n in range(12)]
    assert {column for *_, column in view._rows._files._kept} == {"text"}


def test_the_fingerprint_goes_with_the_content_and_not_with_the_place(tmp_path: Path) -> None:
    first = made(two_shards(tmp_path / "a")).fingerprint()
    assert first == made(two_shards(tmp_path / "b"), keep_bytes=0, max_bad=0.5).fingerprint()
    changed = rows(7, 5)
    changed["text"][0] = "another 7"
    write(tmp_path / "b" / "train-00001-of-00002.parquet", changed, named=features())
    assert made(tmp_path / "b").fingerprint() != first
    assert pickle.loads(pickle.dumps(made(tmp_path / "a"))).fingerprint() == first


@pytest.mark.parametrize(
    "classes, names, said",
    [
        ({"class_label": "2"}, None, "'class_label' goes up to 2, but classes.class_label says 2 classes"),
        ({"class_label": "9"}, features(), r"a number, and the files name the classes \(cat, dog, owl\)"),
        ({"class_label": "none.json"}, None, "no file 'none.json' beside the data"),
        ({"box_labels": "3"}, None, "there is no column of 'box_labels'"),
    ],
)
def test_classes_that_do_not_go_with_the_data(tmp_path: Path, classes: Any, names: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        made(write(tmp_path / "x.parquet", rows(0, 6), named=names), classes=classes)


def test_names_of_classes_beside_the_data(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", rows(0, 6))
    assert dict(made(path).classes) == {"class_label": 3} and not made(path).class_names
    assert dict(made(path, classes={"class_label": "10"}).classes) == {"class_label": 10}
    (tmp_path / "classes.json").write_text(json.dumps(["one", "two", "three"]))
    assert dict(made(path).class_names) == {"class_label": ("one", "two", "three")}


def test_metadata_of_the_schema_is_not_trusted(tmp_path: Path) -> None:
    """Names that are none, numbers, lists without end: the class is then a number."""
    odd: list[Any] = [
        {"names": [1, 2, 3], "_type": "ClassLabel"},
        {"names": ["a", "a", "b"], "_type": "ClassLabel"},
        *([], 3, None),
    ]
    for number, feature in enumerate(odd):
        data = made(write(tmp_path / f"{number}.parquet", rows(0, 3), named=features(label=feature)))
        assert not data.class_names and dict(data.classes) == {"class_label": 3}
    for number, text in enumerate([b"{", b"[]", b'{"info": 1}', b"\xff"]):
        table = pq.read_table(tmp_path / "0.parquet").replace_schema_metadata({b"huggingface": text})
        pq.write_table(table, tmp_path / f"m{number}.parquet")
        assert not made(tmp_path / f"m{number}.parquet").class_names


def test_a_jpeg_is_decoded_smaller_where_that_will_do(tmp_path: Path) -> None:
    import io

    stream = io.BytesIO()
    Image.fromarray(pixels(0, 256, 256)).save(stream, "JPEG")
    path = write(tmp_path / "x.parquet", {"image": [{"bytes": stream.getvalue(), "path": None}]})
    picture = made(path).select(["image"]).reduced([(32, 32)], "crop", 1.0)[0]["image"]
    assert picture.size == (64, 64)
