"""The sheet of pictures: colours, letters, sizes, and the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import odd_pictures
import pytest
from ldm_plugin_datasheet.drawing import file
from ldm_plugin_datasheet.drawing.colours import distinct, lab
from ldm_plugin_datasheet.drawing.letters import Letters
from ldm_plugin_datasheet.drawing.picks import picks
from ldm_plugin_datasheet.drawing.sheet import draw
from ldm_plugin_datasheet.opened import Asked, Opened, opened
from PIL import Image, ImageDraw

from ldm_core.catalog import Catalog
from ldm_core.data.images import png_metadata
from ldm_core.errors import ConfigError


def data(*places: str) -> list[Opened]:
    catalog = Catalog.discover()
    return opened(Asked(data=places).plain(catalog), catalog)


@pytest.mark.parametrize(("count", "least"), [(2, 0.35), (10, 0.17), (20, 0.12), (40, 0.075)])
def test_colours_are_far_from_each_other(count: int, least: float) -> None:
    colours = distinct(count)
    places = lab(np.array(colours, dtype=np.float64))
    far = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(count)
    assert len(set(colours)) == count and far.min() > least and distinct(count + 5)[:count] == colours
    assert places[:, 0].min() > 0.4 and places[:, 0].max() < 0.85 and np.hypot(places[:, 1], places[:, 2]).min() > 0.08
    np.testing.assert_allclose(lab(np.array([[255.0, 255.0, 255.0]])), [[1, 0, 0]], atol=1e-4)


@pytest.mark.parametrize("name", odd_pictures.CAPTIONS)
def test_lines_stay_inside(name: str) -> None:
    text, letters = odd_pictures.CAPTIONS[name], Letters()
    lines = letters.wrap(text, 12, 150, 4)
    assert len(lines) <= 4 and all(0 < letters.length(line, 12) <= 150 for line in lines)
    whole = letters.wrap(text, 12, 150, 100)
    assert "".join("".join(whole).split()) == "".join(text.split()), "letters are lost or doubled"
    assert lines == whole or (lines[-1].endswith("…") and lines[:3] == whole[:3])
    paper = Image.new("RGB", (170, 20), "white")
    for line in lines:
        letters.write(ImageDraw.Draw(paper), (0, 15), line, 12, "black")
    assert not lines or np.asarray(paper).min() < 128, "something is written"
    assert np.asarray(paper)[:, 155:].min() == 255, "nothing is written past the width"


def test_letters_without_a_font_are_boxes() -> None:
    letters = Letters()
    (_, shown), *_ = letters.runs("a\U0001f408\u0301b")
    assert shown in ("a\u25a1b", "a") and letters.lacking <= {"\U0001f408"}
    (number, plain), *rest = letters.runs("plain")
    assert (number, plain, rest) == (0, "plain", []) and letters.length("", 12) == 0


def test_boxes_and_maps_are_drawn_in_the_colours_of_the_legend(tmp_path: Path) -> None:
    (maps,) = data(odd_pictures.tar(tmp_path / "a.tar", maps=True))
    found = picks(maps.dataset, 4, 0)
    picture, _ = draw([("maps", 10, found)])
    colours = {tuple(c) for c in np.asarray(picture).reshape(-1, 3).tolist()}
    assert {*distinct(2), (212, 217, 223), (52, 52, 52)} <= colours  # two classes, the largest one, no class
    (boxes,) = data(odd_pictures.tar(tmp_path / "b.tar", boxes=True))
    found = picks(boxes.dataset, 4, 0)
    assert len(found) == 4 and {label.name for pick in found for _, label in pick.boxes if label} == {
        *("class 0", "class 2")
    }
    picture, _ = draw([("boxes", 10, found)])
    assert set(distinct(2)) <= {tuple(c) for c in np.asarray(picture).reshape(-1, 3).tolist()}


def test_very_long_pictures_are_shown_by_their_middle(tmp_path: Path) -> None:
    (odd,) = data(odd_pictures.odd_folder(tmp_path / "odd"))
    found = {pick.size: pick for pick in picks(odd.dataset, 64, 0)}
    assert found[12, 900].picture.size == (48, 12) and not found[12, 900].whole
    assert found[900, 12].picture.size == (12, 48)
    assert found[500, 700].picture.size == (512, 366) and found[500, 700].whole
    texts = [text for pick in found.values() for text in pick.captions]
    assert len(found) == 7 and texts  # captions that some have are found by name
    every = [pick for pick in picks(odd.dataset, 64, 0) if pick.captions]
    assert len(every) == len(odd_pictures.CAPTIONS)


def test_a_sheet_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    sets, url = data("shapes"), str(tmp_path / "a.png")
    file.write(url, sets, seed=1)
    first = Path(url).read_bytes()
    file.require(url, force=False)  # its like is overwritten
    file.write(url, sets, seed=1)
    assert Path(url).read_bytes() == first and len(first) < file.MOST_BYTES
    assert png_metadata(first) == {"Software": "ldm-run data"}
    width, height = Image.open(io.BytesIO(first)).size
    assert 1000 < width < 3000 and 1000 < height < 3000
    with pytest.raises(ConfigError, match="no such sheet"):
        odd_pictures.noise(8, 8).save(tmp_path / "photo.png")
        file.require(str(tmp_path / "photo.png"), force=False)
    file.require(str(tmp_path / "photo.png"), force=True)


def test_a_sheet_of_noise_is_drawn_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, url = data(odd_pictures.folder(tmp_path / "a", 12, size=(300, 200))), str(tmp_path / "a.png")
    file.write(url, sets)
    large = Path(url).stat().st_size
    monkeypatch.setattr(file, "MOST_BYTES", large - 1)
    file.write(url, sets)
    assert Path(url).stat().st_size < large
