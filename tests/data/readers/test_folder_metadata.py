"""Metadata files of folders: rows that do not read, names in every spelling, captions and where they come from."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from picture_folders import captions, fill, names, opened, rows

from ldm_core.data.records.folder_metadata import read_metadata
from ldm_core.data.records.sources import Captions
from ldm_core.errors import DataError


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


@pytest.mark.parametrize(
    "text, labels",
    [
        ("0 0.5 0.5 0.2 0.2", True),
        ("12 .5 0.5 0.2 0.2\n3 0.1 0.2 0.3 1\n", True),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\r\n", True),
        ("0 5.0e-01 0.5 0.2 0.2 0.97", True),
        ("3 apples", False),
        ("1 2 3 4 5 cats", False),
        ("2024", False),
    ],
)
def test_labels_of_boxes_are_no_captions(text: str, labels: bool, tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "c.png", a__txt=text, b__txt=text, c__txt="" if labels else text)
    data = opened(tmp_path)
    if not labels:
        assert captions(data) == [text.strip()] * 3 and "labels" not in data.remarks()
        return
    assert "the .txt are labels of boxes and no captions" in data.describe()
    with pytest.raises(DataError, match=r"the \.txt of .* are labels of boxes and no captions, and no field caption"):
        data.select(["caption"])
    assert captions(opened(tmp_path, read={"caption": "txt"}))[0] == text.strip()
    fill(tmp_path, **{f"{name}__json": json.dumps({"caption": f"of {name}"}) for name in "abc"})
    assert captions(opened(tmp_path)) == ["of a", "of b", "of c"]


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
