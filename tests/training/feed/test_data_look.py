"""Annotations that cannot be read are found before anything is trained, and damaged held-out data is an error."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_runs import TINY

from ldm_core.catalog import Catalog
from ldm_core.data.images import png_bytes
from ldm_core.data.unreadable import TooManyBad
from ldm_core.errors import ConfigError, DataError, NoSplit
from ldm_core.model.parts import data_info, held_out_data, make_dataset
from ldm_core.training import workflow

PICTURE = png_bytes(np.full((3, 16, 16), 120, dtype=np.uint8))
TEXT = {"use": "text", "width": 16, "layers": 1, "heads": 2, "head_width": 8, "vocab_size": 64, "length": 16}
CLASSES = {"use": "class_label", "name": "class_label"}
MAPS = {"use": "semantic_map", "name": "semantic_map"}
BOXES = {"use": "bbox_layout", "name": "bbox_layout"}


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def flat(mode: str, colour: Any, size: tuple[int, int] = (16, 16)) -> bytes:
    return encoded(Image.new(mode, size, colour))


def embedding(value: float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.full(4, value, np.float32))
    return buffer.getvalue()


def boxes(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"boxes": list(rows), "labels": [0] * len(rows), **more}).encode()


def folder(path: Path, count: int, bad: Callable[[int], bool], files: dict[str, tuple[bytes, bytes]]) -> Path:
    """Pictures with files beside them: of each extension the first bytes where all is well, else the second."""
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (path / f"{i:03d}.png").write_bytes(PICTURE)
        for extension, (good, broken) in files.items():
            (path / f"{i:03d}.{extension}").write_bytes(broken if bad(i) else good)
    return path


def prepared(url: Path, *conditioners: Any, **settings: Any) -> Any:
    plain = {**TINY, "conditioners": list(conditioners), "dataset": {"use": "folder", "url": str(url), **settings}}
    return workflow.prepare(plain, Catalog.discover())


KINDS: dict[str, tuple[str, bytes, bytes, Any, str]] = {
    "maps in colour": ("seg.png", flat("L", 1), flat("RGB", (128, 0, 0)), MAPS, "a label map in colour"),
    "maps half transparent": ("seg.png", flat("L", 1), flat("LA", (1, 9)), MAPS, "transparent pixels"),
    "maps of another size": ("seg.png", flat("L", 1), flat("L", 1, (16, 12)), MAPS, "16x12 pixels, and 'image' has"),
    "maps that are none": ("seg.png", flat("L", 1), b"BM not really", MAPS, "segmentation: "),
    "captions in Latin-1": ("txt", b"a lamp", "größe".encode("latin-1"), TEXT, "not UTF-8"),
    "huge class numbers": ("cls", b"1", b"9" * 5000, CLASSES, "is no class"),
    "negative classes": ("cls", b"1", b"-7", CLASSES, "is no class"),
    "boxes of three": ("json", boxes([0, 0, 1, 1]), boxes([0, 0, 1]), BOXES, "list of boxes of four"),
    "boxes in pixels": ("json", boxes([0, 0, 1, 1]), boxes([2, 2, 15, 15]), BOXES, "dataset.box_units=pixel"),
    "boxes in words": ("json", boxes([0, 0, 1, 1]), boxes({"x": 1}), BOXES, "list of boxes of four"),
    "pictures": ("png", PICTURE, PICTURE[:50], None, "damaged or cut-off|not a picture"),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_cannot_be_read_at_all_stops_before_training(kind: str, tmp_path: Path) -> None:
    extension, good, broken, conditioner, said = KINDS[kind]
    parts = [conditioner] if conditioner else []
    classes = {"classes": {"class_label": "3"}} if extension == "cls" else {}
    files = {extension: (good, broken)}
    all_bad = folder(tmp_path / "all", 40, lambda i: True, files)
    if extension == "seg.png":
        classes = {"classes": {"segmentation": "2"}}
    with pytest.raises(DataError, match=rf"none of the \d+ examples that were looked at can be .*000.*({said})") as e:
        prepared(all_bad, *parts, **classes)
    assert "\n" not in str(e.value) and len(str(e.value)) < 1000
    with pytest.raises(DataError, match="none of the"):  # also where they are the held-out ones
        folder(tmp_path / "split" / "train", 8, lambda i: False, files)
        folder(tmp_path / "split" / "val", 8, lambda i: True, files)
        prepared(tmp_path / "split", *parts, **classes)
    one = folder(tmp_path / "one", 40, lambda i: i == 0, files)
    prepared(one, *parts, **classes)


def test_more_that_are_bad_than_may_be_are_found_as_well(tmp_path: Path) -> None:
    files = {"seg.png": (flat("L", 1), flat("RGB", (9, 8, 7)))}
    with pytest.raises(TooManyBad, match="4 examples of 8 cannot be read, 1 may"):
        prepared(folder(tmp_path / "a", 8, lambda i: i % 2 == 0, files), MAPS)
    mostly = folder(tmp_path / "b", 150, lambda i: i < 140, files)
    prepared(mostly, MAPS, max_bad=0.95)  # whoever says so gets the rest
    assert len(list(mostly.iterdir())) == 300
    with pytest.raises(DataError, match="none of the 64 examples"):
        prepared(folder(tmp_path / "c", 150, lambda i: True, files), MAPS, max_bad=0.95)
    with pytest.raises(DataError, match="none of the 1 examples"):
        prepared(folder(tmp_path / "d", 1, lambda i: True, files), MAPS)


def test_one_data_set_of_a_mixture_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    good = folder(tmp_path / "good", 900, lambda i: False, {"txt": (b"a", b"")})
    bad = folder(tmp_path / "bad", 3, lambda i: True, {"txt": (b"a", b"\xff\xfe\xfa")})
    data = [{"use": "folder", "url": str(url)} for url in (good, bad)]
    plain = {**TINY, "conditioners": [TEXT], "dataset": data}
    with pytest.raises(DataError, match=r"none of the 3 examples .*bad/000.*not UTF-8"):
        workflow.prepare(plain, Catalog.discover())


def test_keys_that_nothing_reads_are_not_looked_at(tmp_path: Path) -> None:
    prepared(folder(tmp_path, 9, lambda i: True, {"txt": (b"", b"\xff\xfe\xfa"), "seg.png": (b"", b"")}))


# ------------------------------------------------------------------------------------------------- held-out data


def shard(count: int, picture: bytes = PICTURE, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(count):
            for extension, data in {"png": picture, **more}.items():
                member = tarfile.TarInfo(f"{i}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def linked() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = tarfile.SYMTYPE, "b.png"
        archive.addfile(member)
    return buffer.getvalue()


SHARDS: dict[str, tuple[bytes, str]] = {
    "cut off": (shard(8)[:3000], "x-val-000.*cut off"),
    "empty": (b"", "x-val-000.*cut off"),
    "of another format": (b"\x1f\x8b" * 600, "x-val-000.*gzip"),
    "damaged": (shard(8)[:1024] + b"\x7f" * 512 + shard(8)[1536:], "x-val-000.*damaged at"),
    "with links": (linked(), "a link or a device"),
    "without pictures": (shard(0, txt=b""), "holds no files|no pictures"),
    "of damaged pictures": (shard(8, PICTURE[:60]), "none of the 8 examples"),
}


@pytest.mark.parametrize("kind", sorted(SHARDS))
def test_a_damaged_shard_of_held_out_data_is_an_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x-train-000.tar").write_bytes(shard(8))
    plain = {**TINY, "dataset": {"use": "tar", "url": str(tmp_path)}}
    recipe, info = workflow.prepare(plain, Catalog.discover())
    assert held_out_data(recipe, Catalog.discover(), info) is None  # there is no such split: no error
    data, said = SHARDS[kind]
    (tmp_path / "x-val-000.tar").write_bytes(data)
    with pytest.raises(DataError, match=rf"held-out data: .*({said})"):
        workflow.prepare(plain, Catalog.discover())


def test_a_wrong_row_of_held_out_metadata_is_an_error(tmp_path: Path) -> None:
    for split in ("train", "val"):
        url = folder(tmp_path / split, 4, lambda i: False, {})
        rows = [{"file_name": f"{i:03d}.png", "text": "a"} for i in range(4)]
        (url / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared(tmp_path, TEXT)
    for row in ('{"file_name": "zzz.png"}', "{broken", '{"text": "a"}'):
        (tmp_path / "val" / "metadata.jsonl").write_text(row + "\n")
        with pytest.raises(DataError, match=r"held-out data: .*metadata\.jsonl"):
            prepared(tmp_path, TEXT)


def test_a_mixture_whose_held_out_data_is_damaged(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x-train-000.tar").write_bytes(shard(4))
    data = [{"use": "tar", "url": str(tmp_path / name)} for name in ("one", "two")]
    plain = {**TINY, "dataset": data}
    recipe, info = workflow.prepare(plain, Catalog.discover())
    assert held_out_data(recipe, Catalog.discover(), info) is None
    with pytest.raises(NoSplit):
        make_dataset(recipe, Catalog.discover(), info, split="val")
    (tmp_path / "two" / "x-val-000.tar").write_bytes(shard(3))
    held: Any = held_out_data(recipe, Catalog.discover(), info)
    assert len(held) == 3
    (tmp_path / "one" / "x-val-000.tar").write_bytes(shard(3)[:2000])
    with pytest.raises(DataError, match=r"held-out data: .*x-val-000.*cut off"):
        workflow.prepare(plain, Catalog.discover())


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev"])
def test_shards_of_other_words_for_held_out_data_are_found(word: str, tmp_path: Path) -> None:
    (tmp_path / "x-train-000.tar").write_bytes(shard(8))
    (tmp_path / f"x-{word}-000.tar").write_bytes(shard(3))
    plain = {**TINY, "dataset": {"use": "tar", "url": str(tmp_path)}}
    recipe, info = workflow.prepare(plain, Catalog.discover())
    held: Any = held_out_data(recipe, Catalog.discover(), info)
    assert len(held) == 3


def test_held_out_classes_have_the_numbers_of_training(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "train/fox", "val/dog", "val/fox"):
        folder(tmp_path / place, 2, lambda i: False, {})
    recipe, info = prepared(tmp_path, CLASSES)
    data: Any = held_out_data(recipe, Catalog.discover(), info)
    assert data_info(data).class_names["class_label"] == ("cat", "dog", "fox")
    assert [data[i]["class_label"] for i in range(4)] == [1, 1, 2, 2]
    folder(tmp_path / "val" / "yak", 2, lambda i: False, {})
    with pytest.raises(ConfigError, match=r"held-out data: conditioner 'class_label' has classes: 3 and .* has 4"):
        prepared(tmp_path, CLASSES)


def test_a_class_that_training_has_not_is_a_bad_example_of_held_out_data(tmp_path: Path) -> None:
    """Maps and numbers have no names: one stray value among many does not say that there are more classes."""
    folder(tmp_path / "train", 4, lambda i: i == 0, {"seg.png": (flat("L", 1), flat("L", 0)), "cls": (b"1", b"0")})
    files = {"seg.png": (flat("L", 1), flat("L", 254)), "cls": (b"1", b"77")}
    folder(tmp_path / "val", 40, lambda i: i == 39, files)
    for conditioner, key in ((MAPS, "segmentation"), (CLASSES, "class_label")):
        recipe, info = prepared(tmp_path, conditioner)
        data: Any = held_out_data(recipe, Catalog.discover(), info)
        assert data.classes == {"segmentation": 2, "class_label": 2}
        with pytest.raises(DataError, match="039"):
            _ = data[39]
        recipe, info = prepared(tmp_path, {**conditioner, "classes": 255})  # a model that knows more of them
        data = held_out_data(recipe, Catalog.discover(), info)
        assert data.classes[key] == 255 and np.max(data.select([key])[39][key]) in (254, 77)
    folder(tmp_path / "val", 40, lambda i: True, files)
    with pytest.raises(DataError, match="held-out data: none of the"):
        prepared(tmp_path, MAPS)


def test_a_folder_of_held_out_data_without_pictures_is_an_error(tmp_path: Path) -> None:
    folder(tmp_path / "train", 4, lambda i: False, {})
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / ".DS_Store").write_bytes(b"x")
    recipe, info = prepared(tmp_path)
    assert held_out_data(recipe, Catalog.discover(), info) is None
    (tmp_path / "val" / "a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"held-out data: .*the folder 'val' of the split 'val' holds no pic.*a\.heic"):
        prepared(tmp_path)
