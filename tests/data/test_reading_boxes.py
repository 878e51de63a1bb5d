"""Boxes at the edge of their pictures, in pixels with and without sizes; and texts, numbers and JSON that do harm."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm_core.builtin.readers.config import FolderConfig, TarConfig
from ldm_core.builtin.readers.folder import FolderDataset
from ldm_core.builtin.readers.tar import TarDataset
from ldm_core.contracts import Site
from ldm_core.data.records.boxes import boxes_of
from ldm_core.data.records.config import ReadingConfig
from ldm_core.data.unreadable import BadExample, SkipBad, TooManyBad
from ldm_core.errors import DataError, LDMError

SITE = Site(size=(16, 16))


def read(
    rows: Any, units: str = "pixel", form: str = "xyxy", size: tuple[int, int] = (32, 32), **fields: Any
) -> np.ndarray:
    """Boxes of a picture of `size` (height, width)."""
    config = ReadingConfig(url="x", box_units=units, box_format=form)  # type: ignore[arg-type]
    return boxes_of(rows, config, fields, lambda: size)


@pytest.mark.parametrize(
    ("row", "form", "kept"),
    [
        ([3, 3, 33, 32], "xyxy", [3, 3, 32, 32]),  # counted from 1
        ([1, 1, 33, 33], "xyxy", [1, 1, 32, 32]),
        ([-1, -2, 10, 10], "xyxy", [0, 0, 10, 10]),
        ([2, 2, 34, 34], "xyxy", [2, 2, 32, 32]),
        ([20, 0, 13.5, 32], "xywh", [20, 0, 32, 32]),
        ([-2, -2, 36, 36], "xywh", [0, 0, 32, 32]),
        ([33, 3, 34, 5], "xyxy", [32, 3, 32, 5]),  # beside the picture: nothing is left of it
    ],
)
@pytest.mark.parametrize("units", ["pixel", "fraction"])
def test_boxes_a_little_past_the_edge_are_cut_off(row: list[float], form: str, kept: list[float], units: str) -> None:
    stored = row if units == "pixel" else [n / 32 for n in row]
    x, y, right, bottom = (n / 32 for n in kept)
    np.testing.assert_allclose(read([stored], units, form), [[x, y, right - x, bottom - y]], atol=1e-6)


@pytest.mark.parametrize(
    ("row", "form", "said"),
    [
        ([3, 3, 36, 32], "xyxy", r"from \(3, 3\) to \(36, 32\) in pixels, reaches 4 past the right edge"),
        ([-5, 3, 30, 32], "xyxy", "reaches 5 past the left edge"),
        ([0, 3, 30, 80], "xyxy", "reaches 48 past the bottom edge"),
        ([0, -2.5, 30, 8], "xyxy", "reaches 2.5 past the top edge"),
        ([10, 10, 25, 25], "xywh", "reaches 3 past the right edge"),
        ([1e300, 0, 2e300, 1], "xyxy", "reaches .* past the right edge"),
    ],
)
def test_boxes_far_past_the_edge_are_named_in_pixels(row: list[float], form: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"box 1, \[.*{said} of its picture, 32x32 .*; check dataset\.box_form") as e:
        read([[0, 0, 5, 5], row, [1, 1, 2, 2]], form=form)
    assert "box_units=pixel" not in str(e.value)  # which is set
    with pytest.raises(ValueError, match=rf"{said} of its picture.*; set dataset\.box_units=pixel"):
        read([[0, 0, 5 / 32, 5 / 32], [n / 32 for n in row], [0, 0, 1, 1]], "fraction", form)


def test_a_hundredth_of_a_large_picture_is_little_too() -> None:
    np.testing.assert_allclose(read([[0, 0, 4030, 100]], size=(1000, 4000)), [[0, 0, 1, 0.1]], atol=1e-6)
    with pytest.raises(ValueError, match=r"reaches 50 past the right edge of its picture, 4000x1000"):
        read([[0, 0, 4050, 100]], size=(1000, 4000))
    with pytest.raises(ValueError, match=r"reaches 20 past the bottom edge"):  # and 10 of 4000 are nothing
        read([[0, 0, 4010, 1020]], size=(1000, 4000))
    with pytest.raises(ValueError, match=r"reaches 6, where 1 is the edge; set dataset\.box_units=pixel"):
        read([[3, 2, 6, 6]], "fraction", size=(0, 0))


def test_sizes_of_fields_come_before_the_pictures_own() -> None:
    assert read([[0, 0, 32, 16]])[0].tolist() == [0, 0, 1, 0.5]
    assert read([[0, 0, 32, 16]], width=64, height=32)[0].tolist() == [0, 0, 0.5, 0.5]  # of a larger original
    for width, height in (("64", 32), (0, 32), (64, None), (float("nan"), 1), (True, 8), (10**400, 1)):
        with pytest.raises(ValueError, match=r"'width' and 'height' are .*; expected two sizes in pixels, or neither"):
            read([[0, 0, 1, 1]], width=width, height=height)
    with pytest.raises(ValueError, match="need the size of the picture"):
        read([[0, 0, 1, 1]], size=(0, 0))


@pytest.mark.parametrize(
    "rows",
    [[[0, 0, 1]], [0, 0, 1, 1], [[0, 0, 1, 1], [0]], [[0, 0, 1, float("nan")]], [[0, 0, 1, "x"]], [{"x": 1}], [None],
     "abcd", 7, {"a": 1}, [[0, 0, 1, 10**400]], [[[[[[0]]]]]], [[0, 0, 1, 1, 1, 1, 1, 1]]],
)  # fmt: skip
def test_what_is_no_box_is_said_in_a_line(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a list of boxes of four finite numbers, got") as e:
        read(rows)
    assert len(str(e.value)) < 200
    with pytest.raises(ValueError, match=r"box 1, \[5, 5, 1, 9\], has a negative side as xyxy; check dataset\.box"):
        read([[0, 0, 1, 1], [5, 5, 1, 9]])
    assert read([]).shape == (0, 4)


def test_boxes_in_pixels_need_no_sizes_beside_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 20)).save(tmp_path / "b.jpg", exif=exif)  # upright it is 20 wide and 40 high
    for name in "ab":
        (tmp_path / f"{name}.json").write_text('{"boxes": [[10, 5, 20, 20]], "labels": ["cup"]}')
    data = FolderDataset(FolderConfig(url=str(tmp_path), box_units="pixel"), SITE).select(["boxes"])
    np.testing.assert_allclose(data[0]["boxes"], [[0.25, 0.25, 0.25, 0.75]])
    np.testing.assert_allclose(data[1]["boxes"], [[0.5, 0.125, 0.5, 0.375]])


# ---------------------------------------------------------------------------------- values that do harm


def shard(path: Path, extension: str, bad: bytes, good: bytes, count: int = 4) -> TarDataset:
    """A tar of which the third sample holds `bad`."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    with tarfile.open(path / "x.tar", "w") as archive:
        for i in range(count):
            for name, data in ((f"in/s{i}.png", buffer.getvalue()), (f"in/s{i}.{extension}", bad if i == 2 else good)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return TarDataset(TarConfig(url=str(path / "x.tar")), SITE)


HARM: dict[str, tuple[str, str, bytes, bytes]] = {
    "5,000 digits": ("class_label", "cls", b"9" * 5000, b"1"),
    "20 digits": ("class_label", "cls", b"9" * 20, b"1"),
    "a billion": ("class_label", "cls", b"1000000000", b"1"),
    "digits of JSON": ("class_label", "json", b'{"label": ' + b"9" * 5000 + b"}", b'{"label": 1}'),
    "a long name": ("class_label", "cls", b"cat" * 5000, b"cat"),
    "deep JSON": ("caption", "json", b'{"caption": ' + b"[" * 90_000, b'{"caption": "a"}'),
    "deep and whole": ("caption", "json", b'{"caption": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"caption": "a"}'),
    "a huge text": ("caption", "txt", b"x" * ((16 << 20) + 1), b"a"),
    "UTF-16": ("caption", "txt", "größe".encode("utf-16"), b"a"),
    "half a character": ("caption", "json", b'{"caption": "\\ud83d"}', b'{"caption": "a"}'),
    "boxes of 10^400": ("boxes", "json", b'{"boxes": [[0, 0, 1, 1' + b"0" * 400 + b"]]}", b'{"boxes": []}'),
    "infinite boxes": ("boxes", "json", b'{"boxes": [[0, 0, 1, 1e999]]}', b'{"boxes": []}'),
    "a list": ("caption", "json", b"[1, 2]", b'{"caption": "a"}'),
}


@pytest.mark.parametrize("kind", sorted(HARM))
def test_a_value_that_does_harm_is_a_bad_example_with_its_name(kind: str, tmp_path: Path) -> None:
    key, extension, bad, good = HARM[kind]
    data = shard(tmp_path, extension, bad, good)
    assert all(count < 10 for count in data.classes.values())
    view = data.select([key])
    _ = view[1]
    with pytest.raises(BadExample, match=r"^in/s2\.") as caught:
        _ = view[2]
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    skipping = SkipBad(view, 0.25)
    _ = skipping[2]
    assert len(skipping.bad) == 1
    with pytest.raises(TooManyBad, match="1 examples of 4 cannot be read, 0 may"):
        _ = SkipBad(view, 0.0)[2]


@pytest.mark.parametrize(
    "names",
    ["[" * 5000, '{"cat": ' + "9" * 5000 + "}", '{"cat": 1e999}', '[{"id": 0}]', '[{"id": NaN, "name": "a"}]', "7",
     "[1]", '{"cat": [1]}', '{"a": 5}', "null", '["cat", 7]', ""],
)  # fmt: skip
def test_lists_of_classes_that_are_none_are_a_line(names: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(names)
    with pytest.raises(DataError, match=r"classes\.json") as caught:
        shard(tmp_path, "cls", b"1", b"0")
    assert len(str(caught.value)) < 300 + len(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["9" * 5000, "0", "-3", "²", "no.json", "x" * 300])
def test_numbers_of_classes_that_are_none_are_a_line(asked: str, tmp_path: Path) -> None:
    _ = shard(tmp_path, "cls", b"1", b"0")
    with pytest.raises(LDMError, match=r"classes\.class_label|cannot") as caught:
        TarDataset(TarConfig(url=str(tmp_path / "x.tar"), classes={"class_label": asked}), SITE)
    assert len(str(caught.value)) < 900 + len(str(tmp_path))


def test_settings_that_are_named_are_the_advice() -> None:
    view: Any = [0] * 100
    skipping = SkipBad.__new__(SkipBad)
    skipping.dataset, skipping.limit, skipping.bad = view, 0.01, {}
    with pytest.raises(TooManyBad, match=r"repair or remove them, or raise dataset\.max_bad"):
        skipping.add({"a": "damaged", "b": "holds class 2; set dataset.classes='{x: \"3\"}'"})
    skipping.bad = {}
    with pytest.raises(TooManyBad, match=r"see the settings that are named there$"):
        skipping.add(dict.fromkeys("ab", "holds class 2; set dataset.classes='{x: \"3\"}'"))


def test_json_stays_as_it_is(tmp_path: Path) -> None:
    good = json.dumps({"caption": "größe 🫠", "boxes": [[0.5, 0.5, 1, 1]], "labels": ["cup"]}).encode()
    data = shard(tmp_path, "json", good, good)
    assert data[2]["caption"] == "größe 🫠" and data.class_names == {"box_labels": ("cup",)}
