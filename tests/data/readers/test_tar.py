"""The tar reader: made shards, the shared data, and everything that can be wrong with a tar."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_core import storage
from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.folder import guess_reader
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Dataset, Site
from ldm_core.data import images
from ldm_core.data.unreadable import BadExample, SkipBad
from ldm_core.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"
SITE = Site(size=(16, 16))


def picture(value: int) -> bytes:
    return images.png_bytes(np.full((3, 8, 12), value, dtype=np.uint8))


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def samples(start: int, stop: int, **more: Any) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number in range(start, stop):
        members[f"s{number:03d}.png"] = picture(number)
        members[f"s{number:03d}.txt"] = f"größe {number} 🫠".encode()
        members[f"s{number:03d}.cls"] = str(number % 3).encode()
        for extension, make in more.items():
            members[f"s{number:03d}.{extension.replace('_', '.')}"] = make(number)
    return members


def opened(url: Any, **settings: Any) -> TarDataset:
    return TarDataset(TarConfig(url=str(url), **settings), SITE)


@pytest.mark.parametrize("place", ["local", "memory", "memory by range"])
def test_reads_shards_from_anywhere(place: str, tmp_path: Path) -> None:
    base = str(tmp_path) if place == "local" else f"memory://tars-{tmp_path.name}"
    for shard in range(3):
        storage.atomic_write(storage.join(base, f"x-{shard:06d}.tar"), tar_bytes(samples(10 * shard, 10 * shard + 10)))
    keep = 100 if place == "memory by range" else 2**20
    for pattern in ("x-{000000..000002}.tar", "x-*.tar", ""):
        data = opened(storage.join(base, pattern) if pattern else base, keep_bytes=keep)
        assert len(data) == 30
        assert [data[i]["name"] for i in (0, 29)] == ["s000", "s029"]
    example = data[17]
    assert example["caption"] == "größe 17 🫠" and example["class_label"] == 2
    assert (example["image"] == 17).all() and example["image"].shape == (3, 8, 12)
    assert data.keys == {"image": "image", "caption": "value", "class_label": "value", "name": "value"}
    assert data.classes == {"class_label": 3} and data.class_names == {}
    assert isinstance(data, Dataset)
    again = pickle.loads(pickle.dumps(data))
    assert again[17]["caption"] == example["caption"] and again.fingerprint() == data.fingerprint()
    assert len(opened(storage.join(base, "x-{000000,000002}.tar"))) == 20


def test_select_reads_only_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(0, 4)))
    view = opened(tmp_path).select(["caption", "name"])
    monkeypatch.setattr("ldm_core.data.records.pictures.decode_image", None)
    assert dict(view[1]) == {"caption": "größe 1 🫠", "name": "s001"}
    assert dict(view.keys) == {"caption": "value", "name": "value"}
    with pytest.raises(DataError, match=r"has no 'boxes'; found image, caption, class_label, name; map"):
        view.select(["boxes"])


def test_boxes_label_maps_and_class_lists(tmp_path: Path) -> None:
    from PIL import Image

    def boxes(number: int) -> bytes:
        rows = [[0.1, 0.2, 0.5, 0.8]] * (number % 3)
        return json.dumps({"boxes": rows, "labels": [1] * len(rows), "width": 12, "height": 8}).encode()

    def label_map(number: int) -> bytes:
        buffer = io.BytesIO()
        image = Image.fromarray(np.full((8, 12), number % 4, dtype=np.uint8), mode="P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.save(buffer, format="PNG")
        return buffer.getvalue()

    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(0, 8, json=boxes, seg_png=label_map)))
    data = opened(tmp_path)
    assert data.keys["boxes"] == "boxes" and data.keys["box_labels"] == "per_box"
    assert data.keys["segmentation"] == "map"
    np.testing.assert_allclose(data[1]["boxes"], [[0.1, 0.2, 0.4, 0.6]], atol=1e-6)
    assert data[0]["boxes"].shape == (0, 4) and data[0]["box_labels"].shape == (0,)
    assert (data[6]["segmentation"] == 2).all()
    assert data.classes == {"class_label": 3, "box_labels": 2, "segmentation": 4}
    (tmp_path / "classes.json").write_text('["sky", "sea", "sand", "ship", "crab"]')
    (tmp_path / "kinds.json").write_text('[{"id": 1, "name": "b"}, {"id": 0, "name": "a"}]')
    data = opened(tmp_path, classes={"box_labels": "kinds.json", "class_label": "7"})
    assert data.classes == {"class_label": 7, "box_labels": 2, "segmentation": 5}
    assert data.class_names["box_labels"] == ("a", "b") and data.class_names["segmentation"][4] == "crab"
    with pytest.raises(DataError, match=r"goes up to 2, but classes\.class_label says 2"):
        opened(tmp_path, classes={"class_label": "2"})
    with pytest.raises(DataError, match=r"no file 'no.json' beside the data"):
        opened(tmp_path, classes={"class_label": "no.json"})


def test_box_formats(tmp_path: Path) -> None:
    def boxes(_: int) -> bytes:
        return json.dumps({"boxes": [[3, 2, 6, 6]], "labels": ["cat"], "width": 12, "height": 8}).encode()

    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(0, 2, json=boxes)))
    corners = opened(tmp_path, box_units="pixel")
    np.testing.assert_allclose(corners[0]["boxes"], [[0.25, 0.25, 0.25, 0.5]])
    assert corners.class_names["box_labels"] == ("cat",) and corners[0]["box_labels"].tolist() == [0]
    sides = opened(tmp_path, box_units="pixel", box_format="xywh")
    np.testing.assert_allclose(sides[0]["boxes"], [[0.25, 0.25, 0.5, 0.75]])
    far = r"s000\.png: boxes: box 0, \[3, 2, 6, 6\], from \(36, 16\) to \(72, 48\) in pixels.*; set dataset.box_units="
    with pytest.raises(BadExample, match=far):
        _ = opened(tmp_path)[0]


def test_keys_are_mapped(tmp_path: Path) -> None:
    def fields(number: int) -> bytes:
        return json.dumps({"name": f"n{number}", "tags": ["x", "y"], "deep": {"score": number / 2}}).encode()

    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(0, 3, json=fields, title=lambda n: b"T%d" % n)))
    data = opened(tmp_path, read={"caption": "title", "score": "json.deep.score", "shown": ".png"})
    assert (data[2]["caption"], data[2]["score"]) == ("T2", 1.0)
    assert data.keys["shown"] == "image" and data.keys["score"] == "value"
    shown = opened(tmp_path, read={"embedding": ".png"})
    assert shown.keys["embedding"] == "image" and np.array_equal(shown[1]["embedding"], shown[1]["image"])
    assert opened(tmp_path, read={"embedding": ".png"}, geometry={"embedding": "map"}).keys["embedding"] == "map"
    assert opened(tmp_path, read={"caption": "name"})[1]["caption"] == "n1"
    assert opened(tmp_path, read={"caption": "tags"})[1]["caption"] == "x, y"
    with pytest.raises(DataError, match=r"read\.caption: no extension or field 'titel'; found extensions .*title"):
        opened(tmp_path, read={"caption": "titel"})


def test_missing_captions_are_counted(tmp_path: Path) -> None:
    members = samples(0, 10)
    del members["s003.txt"], members["s007.txt"]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    data = opened(tmp_path)
    assert data.found["caption"] == 8 and "caption (8 of 10)" in data.describe()
    assert len(data.select(["image", "class_label"])) == 10  # nobody asked for captions
    with pytest.raises(DataError, match=r"2 of 10 samples have no 'caption' \(s003\.png, s007\.png\); .*missing=skip"):
        data.select(["image", "caption"])
    with pytest.raises(DataError, match="2 of 10"):
        _ = data[3]
    kept = opened(tmp_path, missing="skip").select(["caption", "name"])
    assert len(kept) == 8 and kept.skipped == 2
    assert [kept[i]["name"] for i in range(8)] == [f"s{n:03d}" for n in (0, 1, 2, 4, 5, 6, 8, 9)]


def test_bad_examples_are_skipped_and_counted(tmp_path: Path) -> None:
    members = samples(0, 40)
    members["s005.png"] = b"not a picture at all"
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    data = opened(tmp_path)
    with pytest.raises(BadExample, match=r"s005\.png: not a picture \(begins with b'not a pictur'\)") as caught:
        _ = data[5]
    assert pickle.loads(pickle.dumps(caught.value)).name == "s005.png"
    skipping = SkipBad(data, data.max_bad)
    assert len(skipping) == 40 and skipping[5]["name"] == "s006" and list(skipping.bad) == ["s005.png"]
    assert skipping[5]["name"] == "s006" and len(skipping.bad) == 1  # met twice, counted once
    members["s006.png"] = picture(6)[:45]
    members["s039.png"] = b""
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    with pytest.raises(DataError, match=r"2 examples of 40 cannot be read, 1 may \(s005\.png: .*; s006\.png: "):
        _ = SkipBad(opened(tmp_path), 0.01)[5]
    lenient = SkipBad(opened(tmp_path), 0.1)
    assert lenient[5]["name"] == "s007" and lenient[39]["name"] == "s000"
    with pytest.raises(DataError, match="0 may"):
        _ = SkipBad(opened(tmp_path), 0.0).select(["image"])[5]


@pytest.mark.parametrize("extension", ["json", "cls", "txt"])
def test_bad_annotations_are_bad_examples(tmp_path: Path, extension: str) -> None:
    good = {"json": b'{"boxes": [], "labels": []}', "cls": b"1", "txt": b"fine"}
    bad = {"json": b'{"boxes": [[0,', "cls": b"-4", "txt": b"\xff\xfe\xfa"}
    members = samples(0, 4, json=lambda n: good["json"])
    members[f"s002.{extension}"] = bad[extension]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    (tmp_path / "classes.json").write_text('["a", "b", "c"]')
    data = opened(tmp_path, classes={"class_label": "3"})
    _ = data[1]
    with pytest.raises(BadExample, match="s002"):
        _ = data[2]


def test_cut_off_and_damaged_tars(tmp_path: Path) -> None:
    whole = tar_bytes(samples(0, 30))
    target = tmp_path / "a.tar"
    used = max(i for i in range(0, len(whole), 512) if whole[i : i + 512].strip(b"\0")) + 512
    for length in (0, 300, 700, 1024, 5000, 20_000, used - 512, used - 100, used):
        target.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.tar: the tar is cut off.*download or build it again"):
            opened(target)
    damaged = bytearray(whole)
    damaged[1024 * 3 : 1024 * 3 + 200] = b"\x7f" * 200
    for place in (0, 3 * 512 * 2):  # a header somewhere
        damaged = bytearray(whole)
        damaged[place : place + 200] = b"\x7f" * 200
        target.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.tar: (damaged at byte|not a plain tar)"):
            opened(target)
    target.write_bytes(b"PK\x03\x04 this is a zip, says its name otherwise" * 50)
    with pytest.raises(DataError, match="not a plain tar"):
        opened(target)


def test_unsafe_members_are_refused(tmp_path: Path) -> None:
    for name in ("/etc/a.png", "../a.png", "x/../../a.png"):
        (tmp_path / "a.tar").write_bytes(tar_bytes({name: picture(1)}))
        with pytest.raises(DataError, match="points outside the tar"):
            opened(tmp_path)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            member = tarfile.TarInfo("a.png")
            member.type = kind
            member.linkname = "/etc/passwd"
            archive.addfile(member)
        with pytest.raises(DataError, match="a link or a device"):
            opened(tmp_path)


def test_wrong_urls(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data: cannot list .*nowhere: no such file or folder"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no shards; looked for \*\.tar, found an empty folder"):
        opened(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"found notes\.md"):
        opened(tmp_path)
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.txt": b"words only"}))
    with pytest.raises(DataError, match=r"no pictures; looked for \.jpg.*found \.txt"):
        opened(tmp_path)
    (tmp_path / "b.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="decompress it first"):
        opened(tmp_path / "b.tar.gz")
    with pytest.raises(ValueError, match="url: empty"):
        TarConfig(url=" ")


def test_splits_by_name(tmp_path: Path) -> None:
    for split, stop in (("train", 6), ("val", 3)):
        (tmp_path / f"set-{split}-000000.tar").write_bytes(tar_bytes(samples(0, stop)))
    assert len(opened(tmp_path)) == 6 and len(opened(tmp_path, split="val")) == 3
    with pytest.raises(DataError, match="no shards of the split 'test'; found train, val"):
        opened(tmp_path, split="test")
    assert guess_reader(str(tmp_path)) == "tar"
    (tmp_path / "set-val-000000.tar").rename(tmp_path / "other.txt")
    (tmp_path / "set-train-000000.tar").rename(tmp_path / "set.tar")
    with pytest.raises(DataError, match="no split 'val'"):
        opened(tmp_path, split="val")


def test_fingerprint_is_of_the_content_and_the_reading(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.tar").write_bytes(tar_bytes(samples(0, 5)))
    first = opened(tmp_path / "a").fingerprint()
    assert first == opened(tmp_path / "b").fingerprint()  # a copy is the same data
    assert first != opened(tmp_path / "a", read={"caption": "cls"}).fingerprint()
    (tmp_path / "b" / "x.tar").write_bytes(tar_bytes(samples(0, 6)))
    assert first != opened(tmp_path / "b").fingerprint()


def test_no_pickle_is_ever_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "exploded"), "w"))

    members = samples(0, 2)
    for extension in ("pyd", "pkl", "pickle", "pth", "npy", "npz"):
        members[f"s000.{extension}"] = pickle.dumps(Bomb())
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    _ = opened(tmp_path)[0]
    _ = opened(tmp_path, read={"caption": "txt"})[0]
    assert not (tmp_path / "exploded").exists()


# --------------------------------------------------------------------------------------------- shared data

COUNTS = {
    "bccd": (205, {"boxes", "box_labels"}, {"box_labels": 3}),
    "clothing": (950, {"class_label"}, {"class_label": 10}),
    "emoji_noto": (1709, {"caption", "class_label"}, {"class_label": 9}),
    "wbc": (359, {"segmentation", "class_label"}, {"segmentation": 3, "class_label": 5}),
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_shared_data(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no shared data beside the project: {name}")
    count, keys, classes = COUNTS[name]
    data = opened(SHARED / name)
    assert len(data) == count and set(data.keys) == {"image", "name"} | keys and data.classes == classes
    for index in (0, count // 2, count - 1):
        example = data[index]
        assert example["image"].dtype == np.uint8 and example["image"].shape[0] == 3
        if "boxes" in example:
            low, extent = example["boxes"][:, :2], example["boxes"][:, 2:]
            assert (low >= 0).all() and (low + extent <= 1 + 1e-6).all()
            assert len(low) == len(example["box_labels"]) > 0
        if "segmentation" in example:
            assert example["segmentation"].shape == example["image"].shape[1:]


def test_shared_boxes_equal_the_file() -> None:
    if not (SHARED / "bccd").is_dir():
        pytest.skip("no shared data beside the project: bccd")
    with tarfile.open(SHARED / "bccd" / "bccd-val-000000.tar") as archive:
        handle = archive.extractfile("BloodImage_00000.json")
        assert handle is not None
        stored = json.load(handle)
    example = opened(SHARED / "bccd", split="val")[0]
    x, y, width, height = example["boxes"].T.astype(float)
    np.testing.assert_allclose(np.stack([x, y, x + width, y + height], axis=1), stored["boxes"], atol=1e-6)
    assert example["box_labels"].tolist() == stored["labels"] and example["name"] == "BloodImage_00000"


def test_workers_may_be_spawned(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(0, 5)))
    (tmp_path / "data.pickle").write_bytes(pickle.dumps(opened(tmp_path)))  # as a loader would send it
    script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))[3]['name'])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "data.pickle")],
        cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "s003"
