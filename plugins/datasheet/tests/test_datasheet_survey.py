"""The facts of data: of folders, tars, remote files, mixtures, and data sets of anybody."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import odd_pictures
import pytest
from ldm_plugin_datasheet.amounts import LOCAL, places
from ldm_plugin_datasheet.facts import DataSheet, Size, Span
from ldm_plugin_datasheet.survey import survey, survey_of

from ldm_core.contracts import Dataset
from ldm_core.data.unreadable import BadExample
from ldm_core.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> str:
    at = odd_pictures.odd_folder(tmp_path_factory.mktemp("odd"))
    odd_pictures.spoil(at)
    return at


def test_an_ordinary_folder(tmp_path: Path) -> None:
    sheet = survey(odd_pictures.folder(tmp_path / "photos"))
    (part,) = sheet.parts
    assert (part.use, part.examples, part.held_out, part.unreadable) == ("folder", 12, None, [])
    assert [(key.name, key.have) for key in part.keys] == [
        *(("image", 12), ("caption", 12), ("class_label", 12), ("name", 12))
    ]
    assert part.pictures.sizes == [Size(48, 32, 12)] and part.pictures.landscape == 12
    assert part.pictures.forms == {"PNG RGB": 12}
    assert part.captions is not None and part.captions.words == Span.of([5])
    assert part.captions.texts == 12 and part.captions.doubles[0] == ("a cat of colour 0", 2)
    assert part.captions.frequent[:3] == [("a", 12), ("colour", 12), ("of", 12)]
    (classes,) = part.classes
    assert [(c.name, c.count) for c in classes.seen] == [("cat", 8), ("dog", 4)] and classes.imbalance == 2
    assert not sheet.needs and not sheet.problems and not sheet.checked
    assert json.loads(json.dumps(sheet.plain()))["parts"][0]["pictures"]["forms"] == {"PNG RGB": 12}


def test_the_colour_is_the_pixels(tmp_path: Path) -> None:
    at = odd_pictures.folder(tmp_path / "photos", 6, captions=False)
    found = survey(at).parts[0].pictures
    pixels = [np.asarray(odd_pictures.noise(48, 32, seed)) / 255 for seed in range(6)]
    every = np.concatenate([each.reshape(-1, 3) for each in pixels])
    np.testing.assert_allclose(found.mean, every.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(found.std, every.std(axis=0), atol=1e-3)
    assert not found.grey


def test_every_mode_and_size(odd: str) -> None:
    (part,) = survey(odd).parts
    wanted = {"PNG grey": 1, "PNG RGBA": 1, "GIF palette": 1, "JPEG CMYK": 1, "PNG 16-bit grey": 1}
    assert wanted.items() <= part.pictures.forms.items()
    assert part.pictures.aspect is not None
    assert (part.pictures.aspect.least, part.pictures.aspect.most) == pytest.approx((12 / 900, 900 / 12), abs=1e-5)
    fit = part.pictures.fit
    assert fit is not None and fit.size == (32, 32) and fit.times is not None
    assert fit.times.least == pytest.approx(1 / 32) and fit.enlarged == 4


def test_what_does_not_read_is_named(odd: str) -> None:
    (part,) = survey(odd).parts
    found = {each.name: each.why for each in part.unreadable}
    assert sorted(found) == ["bomb.png", "cut.jpg", "eps.jpg", "nothing.png", "words.png"]
    assert "more than 100,000,000 pixels" in found["bomb.png"] and "not a picture" in found["words.png"]


def test_captions_of_any_script(odd: str) -> None:
    (part,) = survey(odd).parts
    assert {key.name: key.have for key in part.keys}["caption"] == len(odd_pictures.CAPTIONS)
    assert part.captions is not None and part.captions.empty == 1 and part.captions.letters is not None
    assert part.captions.letters.most == len(odd_pictures.CAPTIONS["long"])


def test_a_run_without_the_keys_that_it_reads(odd: str) -> None:
    sheet = survey(odd, cond=["text"])
    ((need,), (problem,)) = sheet.needs, sheet.problems
    assert (need.conditioner, need.key, need.have, need.of) == ("text", "caption", 9, 24)
    assert "15 of 24 samples have no 'caption'" in problem and sheet.checked == "recipe 'laptop' with text"
    sheet = survey(odd, cond=["class_label"])
    assert sheet.needs[0].have == 0 and "no folders tell classes apart" in sheet.needs[0].why


def test_a_run_that_would_begin(tmp_path: Path) -> None:
    at = odd_pictures.folder(tmp_path / "photos")
    assert survey(at, cond=["text"], settings=["image_size=16"]).problems == ()
    with pytest.raises(ConfigError, match="no recipe named 'laptoop'"):
        survey(at, recipe="laptoop")
    sheet = survey(at, settings=["trainer.stepz=3", "image_size=[16, 24]"])
    assert "stepz" in sheet.problems[0] and sheet.parts[0].pictures.fit is not None
    assert sheet.parts[0].pictures.fit.lost == Span.of([0])


def test_maps_and_boxes(tmp_path: Path) -> None:
    (part,) = survey(odd_pictures.tar(tmp_path / "a.tar", maps=True)).parts
    (maps,) = part.maps
    assert (maps.maps, maps.of, maps.unlabeled) == (10, 3, 0.05)
    assert [(area.number, area.share, area.maps) for area in maps.classes] == [
        *((0, 0.446667, 10), (1, 0.25, 10), (2, 0.253333, 10))
    ]
    (part,) = survey(odd_pictures.tar(tmp_path / "b.tar", boxes=True), settings=["dataset.box_format=xyxy"]).parts
    boxes = part.boxes
    assert boxes is not None and (boxes.pictures, boxes.boxes, boxes.without) == (10, 15, 0)
    assert boxes.width is not None and (boxes.width.least, boxes.width.most) == pytest.approx((0.4, 0.7), abs=1e-4)
    assert boxes.classes is not None and [c.count for c in boxes.classes.seen] == [10, 5]
    assert boxes.classes.of == 3 and boxes.classes.absent == ["class 1"]


def test_a_mixture_says_what_it_does_not_offer(tmp_path: Path) -> None:
    places = [odd_pictures.folder(tmp_path / "a"), odd_pictures.tar(tmp_path / "b.tar", maps=True)]
    sheet = survey(places, cond=["text"])
    assert [part.examples for part in sheet.parts] == [12, 10] and set(sheet.lacks) == {
        *("caption", "class_label", "segmentation")
    }
    assert (sheet.needs[0].have, sheet.needs[0].of) == (12, 22) and "'b' has none" in sheet.problems[0]


def test_data_elsewhere(tmp_path: Path) -> None:
    odd_pictures.tar(tmp_path / "a.tar", boxes=True)
    with fsspec.open("memory://datasheet/a-train-000.tar", "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes())  # type: ignore[attr-defined]
    (part,) = survey("memory://datasheet/").parts
    assert part.use == "tar" and part.boxes is not None and part.boxes.boxes == 15


def test_the_same_examples_for_the_same_seed() -> None:
    first, again, other = (survey("shapes", seed=seed) for seed in (0, 0, 1))
    assert first == again and first.plain() == again.plain()
    assert first.parts[0].captions != other.parts[0].captions
    looked = first.parts[0].looked
    assert (looked.of, looked.values, looked.whole) == (20000, 1000, False)
    few, more = places(5, 10_000, 3), places(50, 10_000, 3)
    assert len(set(more.tolist())) == 50 and LOCAL.headers > LOCAL.pictures and len(few) == 5


def test_everything(tmp_path: Path) -> None:
    (part,) = survey(odd_pictures.folder(tmp_path / "a", 30), everything=True).parts
    assert part.looked.whole and part.looked.pictures == part.looked.headers == part.looked.values == 30


class Made(Dataset):
    """A data set of somebody's own, with the contract's names and no optional answer; example 3 does not read."""

    def __init__(self, keys: Mapping[str, str] | None = None, count: int = 7) -> None:
        every = {"image": "image", "class_label": "value", "depth": "value", "mask": "map", "other": "image"}
        labelled = "class_label" in (keys or every)
        self.keys: Mapping[str, str] = dict(keys or every)
        self.classes: Mapping[str, int] = {"class_label": 4} if labelled else {}
        self.class_names: Mapping[str, tuple[str, ...]] = {"class_label": ("a", "b", "c", "d")} if labelled else {}
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index == 3 and "image" in self.keys:
            raise BadExample("number 3", "is lost")
        image = np.full((3, 20, 10 + index), 40 * index, dtype=np.uint8)
        mask = np.zeros((20, 10 + index), dtype=np.int64)
        mask[:5] = 255
        example = {"image": image, "class_label": index % 3, "depth": np.arange(6.0), "mask": mask, "other": image}
        return {key: example[key] for key in self.keys}

    def select(self, keys: Iterable[str]) -> Made:
        return Made({key: self.keys[key] for key in keys}, self._count)

    def fingerprint(self) -> str:
        return f"made {self._count}"


def test_a_data_set_of_ones_own() -> None:
    sheet = survey_of(Made(), title="made", size=(10, 10))
    assert isinstance(sheet, DataSheet)
    (part,) = sheet.parts
    assert (part.title, part.use, part.examples) == ("made", "Made", 7)
    assert [each.name for each in part.unreadable] == ["number 3"]
    assert part.pictures.decoded == 6 and part.pictures.grey and part.pictures.forms == {}
    assert part.pictures.width == Span.of([10, 11, 12, 14, 15, 16]) and part.pictures.distinct == 6
    assert {key.name: key.about for key in part.keys}["depth"] == "float64 (6,)"
    assert part.classes[0].absent == ["d"]
    assert part.maps[0].covered == Span.of([0.25]) and part.maps[0].of == 0


def test_a_data_set_without_pictures() -> None:
    with pytest.raises(DataError, match="numbers: has no pictures, only class_label"):
        survey_of(Made({"class_label": "value"}), title="numbers")
