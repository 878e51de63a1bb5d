"""Folders of pictures as people have them: metadata in every spelling, splits, links, mixed contents, earlier runs."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_core import config, images, storage
from ldm_core.builtin.folder import FolderDataset, guess_reader
from ldm_core.builtin.folder_config import FolderConfig
from ldm_core.builtin.folder_layout import split_word
from ldm_core.builtin.folder_metadata import read_metadata
from ldm_core.builtin.reading import BadExample, RecordDataset, SkipBad
from ldm_core.builtin.reading_values import Captions
from ldm_core.builtin.tar import TarDataset
from ldm_core.builtin.tar_config import TarConfig
from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.errors import DataError
from ldm_core.recipe import shipped_text
from ldm_core.resolve import resolve

SITE = Site(size=(16, 16))
PNG = images.png_bytes(np.full((3, 8, 8), 7, dtype=np.uint8))


def fill(base: Path, *pictures: str, **texts: str) -> Path:
    """`pictures`, and `texts` by names with two underscores for a dot."""
    for name in pictures:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(PNG)
    for name, text in texts.items():
        (base / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
    return base


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


# ----------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    "text, why",
    [
        ("file_name,text\na.png,a lamp, brass\n", r"m line 2: 3 cells where the header has 2 \(file_name, text\); put"),
        ("file_name,text\na.png,x\nb.png,a, b, c, d\n", r"m line 3: 5 cells where the header has 2"),
        ("file_name,text,id\na.png,x,1\nb.png,y\n", r"m line 3: 2 cells where the header has 3"),
        ('file_name,text\na.png,"a\nlong\none"\nb.png,x,y\n', r"m line 5: 3 cells"),
        ("file_name;text\na.png;one;two\n", r"m line 2: 3 cells"),
        ('file_name,text\na.png,"a vase, blue\nb.png,two\n', r"m line 3: not readable as CSV \(unexpected end"),
        ('file_name,text\na.png,"a" b\n', r"m line 2: not readable as CSV \('.' expected after '.'\); put a text"),
        ("file_name,text\na.png,x\0y\n", r"m line 2: holds a NUL character"),
        ("file_name,text,text\na.png,x,y\n", r"m line 1: the column 'text' is there twice"),
        ("image,text\na.png,x\n", r"m line 2: has no 'file_name'.*'image', 'text'"),
        ("file_name,text\n\n,x\n", r"m line 3: has no 'file_name'"),
        ("file_name,text\na.png," + "x" * (17 << 20) + "\n", r"m line 2: not readable as CSV \(field larger"),
    ],
)
def test_rows_of_csv_that_do_not_fit_name_their_line(text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_metadata(text, "metadata.csv", "m")


@pytest.mark.parametrize(
    "text",
    [
        "file_name,text\na.png,one\n",
        "file_name;text\r\na.png;one\r\n",
        "file_name\ttext\na.png\tone\n",
        "file_name|text\na.png|one",
        "file_name,text\ra.png,one\r",
        '"file_name","text"\n"a.png","one"\n\n',
        ",file_name,text\n0,a.png,one\n",
        "file_name,text\na.png,one,,\n",
        "\nfile_name,text\n\na.png,one\n",
    ],
)
def test_csv_in_its_dialects(text: str) -> None:
    (row,) = read_metadata(text, "metadata.csv", "m")
    assert (row["file_name"], row["text"]) == ("a.png", "one")


def test_a_long_cell_is_a_caption_like_any(tmp_path: Path) -> None:
    long = 'say ""word"", ' * 20000
    data = opened(fill(tmp_path, "a.png", metadata__csv=f'file_name,text\na.png,"{long}"\n'))
    assert captions(data) == [long.replace('""', '"')]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_newlines_end_a_line_of_jsonl(sign: str, tmp_path: Path) -> None:
    raw = sign if sign > "\x1f" else json.dumps(sign)[1:-1]  # JSON wants control characters escaped
    text = f'{{"file_name": "a.png", "text": "one{raw}two"}}\r\n\n{{"file_name": "b.png", "text": "x"}}'
    assert captions(opened(fill(tmp_path, "a.png", "b.png", metadata__jsonl=text))) == [f"one{sign}two", "x"]


@pytest.mark.parametrize(
    "text, why",
    [
        ("[" * 100_000, "line 1: not readable as JSON"),
        ('{"file_name": "a.png", "x": ' + "[" * 200 + "]" * 200 + "}", "line 1: .*nested too deeply"),
        ('{"file_name": "a.png"}\n[1]', "line 2: is no JSON object"),
        ('{"file_name": "a.png", "n": ' + "9" * 5000 + "}", "line 1: not readable as JSON"),
        ('{"file_name": "a.png"}\n{"file_name": "a.png",', "line 2: not readable as JSON"),
        ('{"file_name": "a.png", "text": "\\ud800"}', "line 1: "),
        ('{"file_name": 5}', "line 1: has no 'file_name'"),
        ('[\n{"file_name": "a.png"}\n]', "line 1: not readable as JSON"),
    ],
)
def test_broken_jsonl_names_its_line(text: str, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        read_metadata(text, "metadata.jsonl", "m")
    assert len(str(caught.value)) < 400


COMPOSED = unicodedata.normalize("NFC", "é")
NAMED = ("a.png", "sub/b.JPG", "sub/my cat.png", f"sub/{unicodedata.normalize('NFD', 'é')}.png")


@pytest.mark.parametrize(
    "name, found",
    [
        ("./a.png", "a.png"),
        (".//a.png", "a.png"),
        ("sub/../a.png", "a.png"),
        ("sub//b.JPG", "sub/b.JPG"),
        ("sub\\b.JPG", "sub/b.JPG"),
        (".\\sub\\b.JPG", "sub/b.JPG"),
        ("sub/b.jpg", "sub/b.JPG"),
        ("a.PNG", "a.png"),
        ("sub/my%20cat.png", "sub/my cat.png"),
        (f"sub/{COMPOSED}.png", NAMED[3]),
        ("{root}/sub/b.JPG", "sub/b.JPG"),
        ("{root}//sub/./b.jpg", "sub/b.JPG"),
        ("file://{root}/a.png", "a.png"),
        ("{link}/a.png", "a.png"),
    ],
)
def test_names_in_every_spelling(name: str, found: str, tmp_path: Path) -> None:
    base = fill(tmp_path / "photos", *NAMED)
    (tmp_path / "other").symlink_to(base)
    spelt = name.format(root=base, link=tmp_path / "other")
    fill(base, metadata__jsonl=json.dumps({"file_name": spelt, "text": "this"}))
    data = opened(base, missing="skip")
    assert captions(data) == ["this"] and names(data.select(["caption", "name"])) == [found.rpartition(".")[0]]


@pytest.mark.parametrize(
    "name, like",
    [
        ("b.png", r"did you mean 'sub/b\.JPG'\?"),
        ("images/a.png", r"did you mean 'a\.png'\?"),
        ("sub/B.jpg", r"did you mean 'sub/b\.JPG'\?"),
        ("sub/my_cat.png", r"did you mean 'sub/my cat\.png'\?"),
        ("C:\\photos\\a.png", r"did you mean 'a\.png'\?"),
        ("/elsewhere/a.png", r"did you mean 'a\.png'\?"),
        ("nothing-like.webp", r"is not there\. Correct"),
        ("../../etc/passwd", r"is not there\. Correct"),
    ],
)
def test_names_that_are_not_there_are_never_to_be_removed(name: str, like: str, tmp_path: Path) -> None:
    fill(tmp_path, *NAMED, metadata__jsonl=rows("a.png") + rows(name))
    with pytest.raises(DataError, match=rf"metadata\.jsonl line 2: .*{like}") as caught:
        opened(tmp_path)
    assert "remove" not in str(caught.value)
    data = opened(tmp_path, missing="skip")
    assert captions(data) == ["of a.png"] and "1 x row of metadata whose picture is not there" in data.describe()


def test_metadata_from_the_top_of_a_split_and_above(tmp_path: Path) -> None:
    fill(tmp_path, "train/a.png", "val/b.png", metadata__jsonl=rows("train/a.png", "val/b.png"))
    assert captions(opened(tmp_path)) == ["of train/a.png"]
    assert captions(opened(tmp_path, split="val")) == ["of val/b.png"]
    (tmp_path / "metadata.jsonl").rename(tmp_path / "train" / "metadata.jsonl")
    (tmp_path / "train" / "metadata.jsonl").write_text(rows("train/a.png"))  # counted from the top
    assert captions(opened(tmp_path)) == ["of train/a.png"]


def test_rows_of_one_picture(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", metadata__jsonl=rows("a.png", n=1) + rows("./a.png", n=1))
    data = opened(tmp_path)
    assert captions(data) == ["of a.png"] and data.many_captions
    (tmp_path / "metadata.jsonl").write_text(rows("a.png", n=1) + rows("a.png", n=2))
    with pytest.raises(DataError, match=r"line 2: names 'a\.png' again, with another 'n' than .*line 1"):
        opened(tmp_path)


def test_captions_of_metadata_come_before_files_of_labels(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", a__txt="0 0.5 0.5 0.2 0.2", b__txt="of b", metadata__jsonl=rows("a.png"))
    data = opened(tmp_path)
    assert captions(data) == ["of a.png", "of b"]
    assert "captions from 'text' of the metadata (1), .txt (1)" in data.describe()
    assert captions(opened(tmp_path, read={"caption": "txt"})) == ["0 0.5 0.5 0.2 0.2", "of b"]
    fill(tmp_path, a__json='{"text": "of the JSON"}', metadata__jsonl="")
    assert captions(opened(tmp_path))[0] == "0 0.5 0.5 0.2 0.2", "without a row, the file beside it is nearer"


def test_lists_of_captions(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", a__json='{"captions": ["one", "two"]}', b__json='{"caption": "three"}')
    data = opened(tmp_path)
    assert captions(data) == ["one", "three"] and data.many_captions
    first = data.select(["caption"])[0]["caption"]
    assert isinstance(first, Captions) and first.texts == ("one", "two")
    fill(tmp_path, a__json='{"words": ["one", "two"]}', b__json='{"words": "three"}')
    assert captions(opened(tmp_path, read={"caption": "words"})) == ["one, two", "three"]


def test_what_there_is_instead_of_captions(tmp_path: Path) -> None:
    fields = {"title": "t", "tags": [1], "meta": {"alt": "x"}}
    fill(tmp_path, "cat/a.png", "cat/b.png", metadata__jsonl=json.dumps({"file_name": "cat/a.png", **fields}))
    with pytest.raises(DataError, match=r"fields are meta\.alt, tags \(list of numbers\), title; say"):
        opened(tmp_path).select(["caption"])
    with pytest.raises(DataError, match="all pictures lie in one folder, 'cat'"):
        opened(tmp_path).select(["class_label"])


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
        (("pictures/a.png", "labels/a.json"), ["pictures/a"]),
    ],
)
def test_splits_and_what_lies_beside_them(pictures: tuple[str, ...], found: list[str], tmp_path: Path) -> None:
    assert names(opened(fill(tmp_path, *pictures))) == found


def test_pictures_beside_splits_are_said(tmp_path: Path) -> None:
    data = opened(fill(tmp_path, "train/a.png", "val/b.png", "extra/c.png", "sheet.png"))
    assert "2 x picture beside the splits (extra/)" in data.describe()
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
    assert len(data) == 2 and "left out: 1 tars whose names hold no split (extra-0.tar)" in data.describe()


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


# -------------------------------------------------------------------------------------------------- earlier runs


def run_in(folder: Path) -> None:
    """What a run leaves."""
    recipe = resolve(config.parse_yaml(shipped_text("laptop"), "laptop"), Catalog.discover())
    fill(folder, "samples.png", "samples/0000.png", "previews/samples-00000001.png", "first_stage_loss.png")
    (folder / "recipe.yaml").write_text(config.dump_yaml(recipe.public()))
    (folder / "metrics.jsonl").write_text("{}\n")


@pytest.mark.parametrize("place", ["runs/a", "out", ".", "cat/run", "deep/er/run"])
def test_earlier_runs_are_no_data(place: str, tmp_path: Path) -> None:
    fill(tmp_path, "one.png", "cat/two.png", "cat/samples.png")
    before = opened(tmp_path).fingerprint()
    run_in(tmp_path / place)
    data = opened(tmp_path)
    assert names(data) == ["cat/samples", "cat/two", "one"] and data.fingerprint() == before
    assert "of a run" in data.describe()


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
