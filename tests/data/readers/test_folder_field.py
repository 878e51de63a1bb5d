"""Folders of pictures as people have them: splits, links, mixed contents, several of one name, earlier runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from picture_folders import PNG, SITE, captions, fill, names, opened, rows

from ldm_core import storage
from ldm_core.builtin.readers.config import TarConfig
from ldm_core.builtin.readers.folder import guess_reader
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.catalog import Catalog
from ldm_core.cli.assemble import assemble
from ldm_core.cli.options import RecipeOptions
from ldm_core.config import documents
from ldm_core.data import images
from ldm_core.data.records.folder_layout import split_word
from ldm_core.data.records.guess import kept_settings
from ldm_core.data.unreadable import BadExample, SkipBad
from ldm_core.errors import DataError
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.shipped import shipped_text

# ----------------------------------------------------------------------------------------------- pictures and parts


def test_pictures_of_one_name(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "a.jpg", "b.webp", "b.PNG", "c.png", b__txt="of b")
    data = opened(tmp_path)
    assert names(data) == ["a", "b", "c"]
    assert "2 x picture of a name that another one has (a.png)" in data.describe()
    before = data.fingerprint()
    fill(tmp_path, metadata__jsonl=rows("a.png", "a.jpg", "b.PNG", "c.png"))
    data = opened(tmp_path)
    assert names(data) == ["a.jpg", "a.png", "b", "c"] and data.fingerprint() != before
    assert captions(data) == ["of a.jpg", "of a.png", "of b.PNG", "of c.png"]
    assert "picture of a name that another one has (b.webp)" in data.describe()
    assert names(opened(tmp_path, read={"control": "jpg"}, geometry={"control": "image"}))[:1] == ["a.jpg"]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "BMP", "WEBP", "JPEG"])
@pytest.mark.parametrize("upper", [False, True])
def test_every_format_that_is_opened_is_read(kind: str, upper: bool, tmp_path: Path) -> None:
    from PIL import Image

    extensions = {"GIF": "gif", "TIFF": "tif", "PPM": "pgm", "BMP": "dib", "WEBP": "webp", "JPEG": "jfif"}
    name = f"a.{extensions[kind]}"
    picture = Image.new("L" if kind == "PPM" else "RGB", (12, 8), 90 if kind == "PPM" else (90, 90, 90))
    picture.save(tmp_path / (name.upper() if upper else name), format=kind)
    data = opened(tmp_path)
    assert data[0]["image"].shape == (3, 8, 12) and abs(int(data[0]["image"].mean()) - 90) < 3


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.heic", "c.heic", "d.svg", "x.tar", "classes.zip", a__txt="t", e__txt="t", LICENSE="x")
    fill(tmp_path, metadata__parquet="x")
    said = opened(tmp_path).describe()
    for part in ("2 x .heic, which is not opened (b.heic)", "1 x .svg, which is not opened",
                 "1 x .txt without a picture (e.txt)", "1 x .parquet (metadata.parquet)", "and 1 more"):  # fmt: skip
        assert part in said
    assert "left out" not in opened(fill(tmp_path / "plain", "a.png")).describe()


def test_a_folder_of_other_formats_alone_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found a\.heic, b\.heic; left out: 2 x \.heic, which is not opened"):
        opened(fill(tmp_path, "a.heic", "b.heic"))


def test_files_that_nothing_reads_change_no_fingerprint(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", a__txt="t", b__txt="t")
    before = opened(tmp_path).fingerprint()
    assert before == opened(tmp_path).former_fingerprint()
    fill(tmp_path, log="x")
    assert opened(tmp_path).fingerprint() == before != opened(tmp_path).former_fingerprint()
    fill(tmp_path, a__txt="tt")
    assert opened(tmp_path).fingerprint() != before


def test_what_does_not_open_is_a_bad_example(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{i}.png" for i in range(8)))
    (tmp_path / "8.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "9.png")
    (tmp_path / "a").mkdir()
    fill(tmp_path, "a/zero.png", **{"0__json": '{"n": 1}'})
    (tmp_path / "a" / "zero.json").symlink_to(tmp_path / "nothing")
    data = opened(tmp_path, max_bad=0.4)
    with pytest.raises(BadExample, match=r"8\.png: 8\.png is a link to nothing"):
        _ = data[8]
    view = SkipBad(data, 0.4)
    assert [view[i]["name"] for i in (8, 9)] == ["a/zero", "a/zero"] and set(view.bad) == {"8.png", "9.png"}
    assert data.image_sizes()[8].tolist() == [0, 0]
    fill(tmp_path, **{"0__json": '{"caption": "of 0"}'})
    few = opened(tmp_path, missing="skip").select(["caption"])
    assert few[0]["caption"] == "of 0" and len(few) == 2
    with pytest.raises(BadExample, match=r"a/zero\.png: a/zero\.json is a link to nothing"):
        _ = few[1]


# ------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    "name, word",
    [("train", "train"), ("Train", "train"), ("train2017", "train"), ("val2014", "val"), ("validation", "val"),
     ("test_images", "test"), ("trainset", "train"), ("valley", ""), ("trains", ""), ("testament", "")],
)  # fmt: skip
def test_folders_named_for_splits(name: str, word: str) -> None:
    assert split_word(name) == word


@pytest.mark.parametrize(
    "pictures, found",
    [
        (("train/a.png", "val/b.png", "annotations/x.json"), ["a"]),
        (("train/a.png", "val/b.png", "labels/train/a.txt", "README"), ["a"]),
        (("train2017/a.png", "val2017/b.png", "annotations/x.json"), ["a"]),
        (("images/train/a.png", "images/val/b.png", "labels/train/a.txt"), ["a"]),
        (("set/train/cat/a.png", "set/train/dog/b.png", "set/test/cat/c.png"), ["cat/a", "dog/b"]),
        (("train/a.png", "annotations/x.json"), ["a"]),
        (("train/a.png", "val/b.png", "extra/c.png"), ["a"]),
        (("train/a.png", "val/b.png", "sheet.png"), ["a"]),
        (("train/cat/a.png", "train/dog/b.png", "unlabeled/c.png"), ["cat/a", "dog/b"]),
        (("car/a.png", "plane/b.png", "train/c.png"), ["car/a", "plane/b", "train/c"]),
        (("cat/a.png", "test/b.png"), ["cat/a", "test/b"]),
        (("test_images/a.png",), ["test_images/a"]),
        (("pictures/a.png", "labels/a.json"), ["pictures/a"]),
    ],
)
def test_splits_and_what_lies_beside_them(pictures: tuple[str, ...], found: list[str], tmp_path: Path) -> None:
    assert names(opened(fill(tmp_path, *pictures))) == found


def test_pictures_beside_splits_are_said(tmp_path: Path) -> None:
    data = opened(fill(tmp_path, "train/a.png", "val/b.png", "extra/c.png", "sheet.png"))
    assert "2 x picture beside the splits (extra/)" in data.describe()
    assert (
        "1 x .json beside the splits (annotations/x.json), 1 x .csv beside the splits (b.csv)"
        in opened(fill(tmp_path, "annotations/x.json", "val/c.json", "b.csv")).describe()
    )
    with pytest.raises(DataError, match="no split 'test'; found train, val"):
        opened(tmp_path, split="test")


# --------------------------------------------------------------------------------------------------------- links


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path / "store", "bird/a.png", "bird/deep/b.png")
    base = fill(tmp_path / "photos", "cat/c.png")
    (base / "bird").symlink_to(tmp_path / "store" / "bird")
    (base / "cat" / "up").symlink_to(base)  # a loop
    (base / "vogel").symlink_to(tmp_path / "store" / "bird")
    data = opened(base)
    assert data.class_names["class_label"] == ("bird", "cat") and names(data) == ["bird/a", "bird/deep/b", "cat/c"]
    assert "1 links to folders followed (bird)" in data.describe()
    assert "2 x a link to a folder that is read already" in data.describe()
    linked = tmp_path / "all"
    linked.mkdir()
    for kind in ("cat", "bird"):
        (linked / kind).symlink_to(base / kind)
    assert opened(linked).class_names["class_label"] == ("bird", "cat")
    (tmp_path / "link").symlink_to(base)
    assert opened(tmp_path / "link").fingerprint() == data.fingerprint()


def tar(path: Path, name: str) -> Path:
    import io
    import tarfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(PNG)
        archive.addfile(member, io.BytesIO(PNG))
    return path


def test_linked_shards_are_read_and_those_without_a_split_are_said(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "x-train-000.tar").symlink_to(tar(tmp_path / "store" / "1", "a.png"))
    tar(shards / "x-train-001.tar", "b.png")
    tar(shards / "extra-0.tar", "c.png")
    data = TarDataset(TarConfig(url=str(shards)), SITE)
    assert len(data) == 2 and "hold no split (extra-0.tar)" in data.describe()


@pytest.mark.parametrize(
    "tars, pictures, reader",
    [
        (["original.tar"], ["a.png", "b.png"], "folder"),
        (["backup.tar"], ["cat/a.png", "dog/b.png"], "folder"),
        (["train-000.tar", "train-001.tar"], ["preview.png"], "tar"),
        (["000000.tar"], [], "tar"),
        (["photos.tar"], [], "tar"),
        ([], ["a.gif"], "folder"),
        (["train-000.tar"], ["a.png", "b.png", "c.png"], "dataset.use=tar or dataset.use=folder"),
        (["train-000.tar"], ["cat/a.png", "dog/b.png"], "dataset.use=tar or dataset.use=folder"),
    ],
)
def test_tars_among_pictures(tars: list[str], pictures: list[str], reader: str, tmp_path: Path) -> None:
    fill(tmp_path, *pictures)
    for name in tars:
        tar(tmp_path / name, "x.png")
    if "=" in reader:
        with pytest.raises(DataError, match=reader):
            guess_reader(str(tmp_path))
    else:
        assert guess_reader(str(tmp_path)) == reader


def test_a_setting_says_which_of_tars_and_pictures_are_meant(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "c.png")
    tar(tmp_path / "train-000.tar", "x.png")
    for use in ("tar", "folder"):
        made = assemble(RecipeOptions(data=(str(tmp_path),), settings=(f"dataset.use={use}",)), Catalog.discover())
        assert made.plain["dataset"]["use"] == use


# -------------------------------------------------------------------------------------------------- earlier runs


def run_in(folder: Path) -> None:
    """What a run leaves."""
    recipe = resolve(documents.parse_yaml(shipped_text("laptop"), "laptop"), Catalog.discover())
    fill(folder, "samples.png", "samples/0000.png", "previews/samples-00000001.png", "first_stage_loss.png")
    (folder / "recipe.yaml").write_text(documents.dump_yaml(recipe.public()))
    (folder / "metrics.jsonl").write_text("{}\n")
    for name in ("model", "best"):
        (folder / f"{name}.safetensors").write_bytes(b"0")


@pytest.mark.parametrize("place", ["runs/a", "out", ".", "cat/run", "deep/er/run"])
def test_earlier_runs_are_no_data(place: str, tmp_path: Path) -> None:
    fill(tmp_path, "one.png", "cat/two.png", "cat/samples.png")
    before = opened(tmp_path).fingerprint()
    run_in(tmp_path / place)
    data = opened(tmp_path)
    assert names(data) == ["cat/samples", "cat/two", "one"] and data.fingerprint() == before
    assert "of a run" in data.describe() and "safetensors" not in data.describe()


def test_of_a_run_among_the_pictures_the_files_on_its_list_are_no_data(tmp_path: Path) -> None:
    fill(tmp_path, "one.png", "samples/mine.png")
    before = opened(tmp_path).fingerprint()
    run_in(tmp_path)
    fill(tmp_path, "first_stage_loss.png")
    written = ("recipe.yaml", "metrics.jsonl", "samples.png", "samples/0000.png", "previews/samples-00000001.png",
               "first_stage_loss.png")  # fmt: skip
    (tmp_path / ".ldm-files.json").write_text(json.dumps({"ldm_core_files": {name: [] for name in written}}))
    data = opened(tmp_path)
    assert names(data) == ["one", "samples/mine"] and data.fingerprint() == before


@pytest.mark.parametrize(
    "made, kept",
    [
        (("samples/0000-seed0-a-cat.png", "samples/grid.png"), False),
        (("samples-2/0000.png",), False),
        (("mine/0000-seed0.png", "mine/0001-seed1.png", "mine/grid-2.png"), False),
        (("reconstructions/0000-one.png",), False),
        (("mine/0000-seed0.png",), True),
        (("samples/cat.png",), True),
    ],
)
def test_pictures_that_were_sampled_among_others_are_no_data(made: tuple[str, ...], kept: bool, tmp_path: Path) -> None:
    fill(tmp_path, "one.png", "two/0000.png", "two/grid.png")
    before = names(opened(tmp_path))
    sampled = images.png_bytes(np.zeros((3, 8, 8), dtype=np.uint8), {"prompt": "é", "software": "ldm-core"})
    rebuilt = images.png_bytes(np.zeros((3, 8, 8), dtype=np.uint8), {"source": "photo.png"})
    for name in made:
        fill(tmp_path, name)
        (tmp_path / name).write_bytes(rebuilt if "reconstructions" in name else sampled)
    data = opened(tmp_path)
    assert (names(data) != before) == kept and ("picture that was sampled" in data.describe()) != kept
    whole = opened(tmp_path / made[0].partition("/")[0])
    assert len(whole) == len(made), "asked for by itself, it is data as any"


def test_a_recipe_for_a_cake_makes_no_run(tmp_path: Path) -> None:
    fill(tmp_path, "cake/a.png", "soup/b.png")
    (tmp_path / "cake" / "recipe.yaml").write_text("flour: 200 g\n")
    assert names(opened(tmp_path)) == ["cake/a", "soup/b"]


def test_all_of_it_elsewhere(tmp_path: Path) -> None:
    """The same rules where the files are not on this disk."""
    base = f"memory://field-{tmp_path.name}"
    files: Mapping[str, bytes | str] = {
        "train/a.png": PNG, "train/sub/b.JPG": PNG, "val/c.png": PNG, "annotations/x.json": "{}",
        "metadata.jsonl": rows("./train/a.png", "train\\sub\\b.jpg", "val/c.png"),
    }  # fmt: skip
    for name, data in files.items():
        storage.atomic_write(f"{base}/{name}", data)
    assert captions(opened(base)) == ["of ./train/a.png", "of train\\sub\\b.jpg"]


def test_fields_that_no_key_reads_are_named_and_how_they_are_read(tmp_path: Path) -> None:
    row = {"text": "grey", "brightness": 0.5, "shot": {"iso": 100}}
    fill(
        tmp_path,
        "a.png",
        "b.png",
        metadata__jsonl="\n".join(json.dumps({"file_name": f"{n}.png", **row}) for n in "ab"),
    )
    data = opened(tmp_path)
    assert (
        "fields that no key reads: brightness (number), shot.iso (number) (dataset.read names them)" in data.remarks()
    )
    assert "dataset.read='{brightness: brightness}'" in data.lacks["brightness"] and "caption" not in data.lacks
    read = opened(tmp_path, read={"brightness": "brightness", "speed": "shot.iso"})
    assert "no key reads" not in read.remarks() and read.keys["brightness"] == "value"
    assert read.select(["speed"])[0]["speed"] == 100


def test_texts_of_several_fields_make_one(tmp_path: Path) -> None:
    """In their order, each once, joined with commas; of a row without one of them, the others."""
    words: list[dict[str, object]] = [
        {"name": "red fox", "tags": ["animal", "fox", "red fox"]},
        {"tags": ["plain"]},
        {"name": "a, b", "tags": []},
    ]
    rows = [{"file_name": f"{n}.png", **row} for n, row in zip("abc", words, strict=True)]
    fill(tmp_path, "a.png", "b.png", "c.png", metadata__jsonl="\n".join(map(json.dumps, rows)))
    data = opened(tmp_path, read={"caption": "name, tags"})
    assert captions(data) == ["red fox, animal, fox", "plain", "a, b"]
    assert "no key reads" not in data.remarks()
    with pytest.raises(DataError, match=r"no extension or field 'name, colour'"):
        opened(tmp_path, read={"caption": "name, colour"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps({**row, "tags": 7}) for row in rows))
    wrong = opened(tmp_path, read={"caption": "name, tags"})
    with pytest.raises(DataError, match="expected text, got 7"):
        captions(wrong)


def test_settings_of_a_recipe_without_a_reader_are_for_the_data_that_are_given() -> None:
    """A recipe may say how data are read and leave the place to the command line: nothing of it is dropped."""
    said = {"read": {"caption": "name"}}
    assert (
        kept_settings(said, "tar") == said and kept_settings({**said, "use": "tar"}, "folder")["read"] == said["read"]
    )
    assert kept_settings({"use": "shapes", "scenes": 3}, "tar") == {} and kept_settings("shapes", "tar") == {}
