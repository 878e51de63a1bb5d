"""``--input`` and its named forms: what is read, in which form, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm_core.catalog import Catalog
from ldm_core.cli.inputs import name_classes, read_inputs, require_readers
from ldm_core.data.inputs.fitted import fit_inputs
from ldm_core.data.inputs.forms import taken_sizes
from ldm_core.errors import ConfigError, DataError, StorageError
from ldm_core.recipe.resolve import resolve


def test_values() -> None:
    got = read_inputs(["caption=3", "strength=0.5", "n=4", "on=true", "word=sky", "mix=[a, 1]", "eq=a=b"])
    assert got == {
        "caption": "3",
        "strength": 0.5,
        "n": 4,
        "on": True,
        "word": "sky",
        "mix": ["a", 1],
        "eq": "a=b",
    }


def test_lists_of_numbers_become_arrays() -> None:
    got = read_inputs(["palette=[[1.0, 0, 0], [0, 0.5, 0]]", "ids=[3, 4]", "ragged=[[1], [2, 3]]"])
    assert got["palette"].dtype == np.float32
    assert got["palette"].tolist() == [[1, 0, 0], [0, 0.5, 0]]
    assert got["ids"].dtype == np.int64
    assert got["ragged"] == [[1], [2, 3]]


def _png(array: Any, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format="PNG")
    return buffer.getvalue()


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a red circle\n")
    (tmp_path / "p.json").write_text("[[1, 0, 0.5]]")
    (tmp_path / "p.yaml").write_text("- [1, 0, 0.5]\n")
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "map.png").write_bytes(_png(labels))
    colours = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    (tmp_path / "picture.png").write_bytes(_png(colours))
    got = read_inputs(
        [
            f"caption=@{tmp_path}/a.txt",
            f"palette=@{tmp_path}/p.json",
            f"other=@{tmp_path}/p.yaml",
            f"numbers=@{tmp_path}/x.npy",
            f"image=@{tmp_path}/picture.png",
        ],
        segmentation=str(tmp_path / "map.png"),
    )
    assert got["caption"] == "a red circle"
    assert got["palette"].tolist() == got["other"].tolist() == [[1, 0, 0.5]]
    assert got["numbers"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert got["segmentation"].tolist() == labels.tolist()
    assert got["image"].tolist() == colours.transpose(2, 0, 1).tolist()


def test_nothing_is_executed(tmp_path: Path) -> None:
    """Pickled arrays and YAML tags that would build objects are refused."""
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="and not plain numbers"):
        read_inputs([f"x=@{tmp_path}/bad.npy"])
    with pytest.raises(ConfigError, match="not readable as YAML"):
        read_inputs(["x=!!python/object/apply:os.getcwd []"])


def test_boxes_inline_and_from_a_file(tmp_path: Path) -> None:
    text = json.dumps({"boxes": [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]], "labels": [2, 0]})
    (tmp_path / "b.json").write_text(text)
    for given in (text, str(tmp_path / "b.json")):
        got = read_inputs(boxes=given)
        assert got["boxes"].dtype == np.float64
        assert np.allclose(got["boxes"], np.array([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]))
        assert got["box_labels"].tolist() == [2, 0]
        assert got["box_labels"].dtype == np.int64
    assert list(read_inputs(boxes="[[0, 0, 0.5, 0.5]]")) == ["boxes"]
    assert read_inputs(boxes='{"boxes": [], "labels": []}')["boxes"].shape == (0, 4)
    assert read_inputs(boxes='{"boxes": [[0, 0, 1, 1]], "labels": ["star"]}')["box_labels"] == ["star"]


@pytest.mark.parametrize(
    "pairs, options, said",
    [
        (["caption"], {}, "--input 'caption': expected KEY=VALUE or KEY=@FILE"),
        (["a b=1"], {}, "--input 'a b=1': expected KEY=VALUE"),
        (["x=[1"], {}, "--input x line 1: not readable as YAML"),
        (["x=@a.exe"], {}, "cannot tell what '.exe' holds (known: .json, .yaml"),
        (["x=1", "x=2"], {}, "--input: 'x' is given twice"),
        (["segmentation=1"], {"boxes": "{"}, "--boxes: not readable as JSON"),
        ([], {"boxes": "{}"}, '--boxes: no "boxes" in it'),
        ([], {"boxes": '{"boxes": [], "label": []}'}, 'unknown key "label"'),
        ([], {"boxes": "[[0, 0, 1]]"}, "expected a list of [x, y, w, h]"),
        ([], {"boxes": '["a"]'}, "expected a list of [x, y, w, h]"),
        ([], {"boxes": "[[0.5, 0, 0.6, 1]]"}, "boxes[0]: [0.5, 0, 0.6, 1] leaves the image"),
        ([], {"boxes": "[[0, 0, 0, 1]]"}, "boxes[0]"),
        ([], {"boxes": "[[0, 0, NaN, 1]]"}, "boxes[0]"),
        ([], {"boxes": '{"boxes": [[0, 0, 1, 1]], "labels": []}'}, "1 boxes and 0 labels"),
        ([], {"boxes": '{"boxes": [[0, 0, 1, 1]], "labels": [true]}'}, "labels[0]: expected a class number or name"),
        (["boxes={boxes: []}"], {}, "--boxes takes boxes with their labels"),
    ],
)
def test_what_is_refused(pairs: list[str], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_inputs(pairs, **options)
    assert said in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(StorageError, match=r"no/such\.json: no such file"):
        read_inputs(["palette=@no/such.json"])


NAMES = {"class_label": ("cat", "dog", "horse"), "box_labels": ("circle", "square")}


def test_names_become_numbers() -> None:
    given = {"class_label": "dog", "box_labels": ["square", 0], "caption": "dog"}
    got = name_classes(given, NAMES)
    assert got["class_label"] == 1
    assert got["box_labels"].tolist() == [1, 0]
    assert got["caption"] == "dog"
    assert given["class_label"] == "dog", "the input is changed in place"
    assert name_classes({"class_label": 2}, {})["class_label"] == 2


@pytest.mark.parametrize(
    "inputs, names, counts, said",
    [
        ({"class_label": "dgo"}, NAMES, {}, "no class named 'dgo'; did you mean 'dog'? (known: cat, dog, horse)"),
        ({"class_label": "dog"}, {}, {}, "the data has no class names, give the class's number"),
        ({"class_label": 3}, NAMES, {}, "no class 3; there are 3 (0 to 2)"),
        ({"class_label": 10}, {}, {"class_label": 10}, "no class 10; there are 10 (0 to 9)"),
        ({"box_labels": np.array([0, 2])}, NAMES, {}, "box_labels: no class 2; there are 2"),
    ],
)
def test_classes_that_are_not_there(
    inputs: dict[str, Any], names: dict[str, tuple[str, ...]], counts: dict[str, int], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        name_classes(inputs, names, counts)
    assert said in str(caught.value)


def test_an_input_that_nothing_reads() -> None:
    require_readers(["caption"], {"text": ("caption",)})
    with pytest.raises(ConfigError, match=r"'captoin': nothing reads it; did you mean 'caption'\?"):
        require_readers(["captoin"], {"text": ("caption",)})
    with pytest.raises(ConfigError, match="the model has no conditioner"):
        require_readers(["caption"], {})


def test_maps_and_pictures_come_to_the_models_size() -> None:
    labels = np.zeros((4, 4), np.int64)
    labels[:, 2:] = 7
    palette = np.ones((5, 3), np.float32)
    got = fit_inputs({"segmentation": labels, "palette": palette, "caption": "x"}, (8, 8), "crop")
    assert got["segmentation"].tolist() == np.repeat(np.repeat(labels, 2, 0), 2, 1).tolist()
    assert got["palette"] is palette
    padded = fit_inputs({"mask": labels}, (4, 8), "pad", {"mask": "map"})["mask"]
    assert padded.shape == (4, 8)
    assert (padded[:, :2] == 255).all()


def test_small_pictures_stay_as_they_are_where_all_readers_take_them() -> None:
    catalog = Catalog.discover()

    def taken(*conditioners: str) -> dict[str, tuple[int, int]]:
        plain = {"image_size": [64, 32], "first_stage": "vq_f4", "conditioners": list(conditioners)}
        return taken_sizes(resolve(plain, catalog))

    assert taken("low_resolution") == {"image": (16, 8)}
    assert taken("masked_image") == {} and taken("low_resolution", "masked_image") == {}
    small, other = np.zeros((3, 16, 8), np.uint8), np.zeros((3, 50, 50), np.uint8)
    assert fit_inputs({"image": small}, (64, 32), "crop", taken={"image": (16, 8)})["image"] is small
    assert fit_inputs({"image": other}, (64, 32), "crop", taken={"image": (16, 8)})["image"].shape == (3, 64, 32)


def test_a_picture_with_its_mask(tmp_path: Path) -> None:
    grey = np.zeros((10, 20), np.uint8)
    grey[:, 10:] = 200
    (tmp_path / "hole.png").write_bytes(_png(grey))
    (tmp_path / "photo.png").write_bytes(_png(np.full((10, 20, 3), 7, np.uint8)))
    got = read_inputs([f"mask=@{tmp_path / 'hole.png'}", f"image=@{tmp_path / 'photo.png'}"])
    fitted = fit_inputs(got, (5, 10), "crop")
    assert fitted["image"].shape == (3, 5, 10)
    assert fitted["mask"].tolist() == [[0] * 5 + [200] * 5] * 5
    with pytest.raises(ConfigError, match=r"--input mask=hole.png: expected a file, such as mask=@hole.png"):
        read_inputs(["mask=hole.png"])
