"""One's own examples as a data set: forms of pictures, geometries, classes, fingerprints, and what cannot be used."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_core.api.examples import picture
from ldm_core.api.own_data import OwnData, component_of
from ldm_core.contracts import Dataset, Site
from ldm_core.errors import ConfigError, DataError, LDMError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
PLANES = PIXELS.transpose(2, 0, 1)
FORMS: dict[str, Any] = {
    "PIL": Image.fromarray(PIXELS),
    "PIL with alpha": Image.fromarray(np.dstack([PIXELS, np.full((6, 9), 255, np.uint8)])),
    "H, W, c": PIXELS,
    "c, H, W": np.ascontiguousarray(PLANES),
    "tensor c, H, W": torch.from_numpy(PLANES.copy()),
    "tensor H, W, c": torch.from_numpy(PIXELS),
    "floats": torch.from_numpy(PLANES.astype(np.float32) / 255),
    "floats of numpy": PIXELS / 255,
    "list": PIXELS.tolist(),
}


@pytest.mark.parametrize("form", [name for name in FORMS if name != "list"])
def test_forms_of_a_picture_are_one(form: str) -> None:
    made = picture(FORMS[form], "here")
    assert made.dtype == np.uint8 and np.array_equal(made, PLANES)


def test_grey_and_ambiguous_pictures() -> None:
    grey = PIXELS[..., 0]
    for value in (grey, grey[None], grey[..., None], Image.fromarray(grey), torch.from_numpy(grey)):
        assert np.array_equal(picture(value, "here"), grey[None])
    both = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    assert np.array_equal(picture(both, ""), both.transpose(2, 0, 1)), "an array has its channels last"
    assert np.array_equal(picture(torch.from_numpy(both), ""), both), "a tensor first"


def whole(i: int = 0) -> dict[str, Any]:
    return {
        "image": np.roll(PIXELS, i, 0),
        "caption": f"number {i}",
        "class": ("cat", "dog")[i % 2],
        "boxes": [[0.0, 0.1, 0.5, 0.5]] * (i % 3),
        "box_labels": ["a", "b"][: i % 3],
        "segmentation": torch.full((6, 9), i % 4),
        "mask": np.zeros((6, 9), bool),
        "embedding": torch.arange(4) + i,
        "depth": np.full((6, 9), 3, np.int32),
        "other": np.full((6, 9, 3), i, np.uint8)[..., :1].transpose(2, 0, 1),
        "strength": 0.5,
    }


def test_keys_geometries_and_classes_follow_from_what_is_there() -> None:
    data = OwnData([whole(i) for i in range(7)])
    assert isinstance(data, Dataset)
    assert dict(data.keys) == {
        "image": "image",
        "caption": "value",
        "class_label": "value",
        "boxes": "boxes",
        "box_labels": "per_box",
        "segmentation": "map",
        "mask": "map",
        "embedding": "value",
        "depth": "map",
        "other": "image",
        "strength": "value",
    }
    assert data.class_names == {"class_label": ("cat", "dog"), "box_labels": ("a", "b"), "segmentation": ()}
    assert data.classes == {"class_label": 2, "box_labels": 2, "segmentation": 4} and data.widths == {"embedding": 4}
    five = data[5]
    assert five["class_label"] == 1 and five["box_labels"].tolist() == [0, 1] and five["boxes"].shape == (2, 4)
    assert data[0]["boxes"].shape == (0, 4) and data[0]["box_labels"].shape == (0,)
    assert data.image_sizes().tolist() == [[6, 9]] * 7
    five["segmentation"][:] = 9
    assert int(data[5]["segmentation"].max()) == 1, "arrays are the reader's to edit"
    assert data.at(1)[0]["image"].shape == (1, 6, 9)
    view = data.select(["image", "class_label"])
    assert list(view[2]) == ["image", "class_label"] and view.fingerprint() == data.fingerprint()
    with pytest.raises(DataError, match="have no 'style'"):
        data.select(["style"])
    with pytest.raises(IndexError):
        data[7]
    assert pickle.loads(pickle.dumps(view))[2]["class_label"] == 0


def test_a_fingerprint_is_of_the_contents() -> None:
    rows = [whole(i) for i in range(3)]
    same = [{**row, "image": Image.fromarray(row["image"])} for row in rows]
    one = OwnData(rows).fingerprint()
    assert OwnData(same).fingerprint() == OwnData(tuple(rows)).fingerprint() == one
    for key, value in {"image": PIXELS + 1, "caption": "x", "embedding": torch.zeros(4), "strength": 0.6}.items():
        assert OwnData([*rows[:2], {**rows[2], key: value}]).fingerprint() != one
    assert OwnData(rows[::-1]).fingerprint() != one


def test_pairs_are_a_picture_and_a_class_or_caption() -> None:
    assert OwnData([(PIXELS, 3), (PIXELS, 0)]).classes == {"class_label": 4}
    assert OwnData([(PIXELS, "a cat")])[0]["caption"] == "a cat"


class Restless:
    """A random transform in the data set."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.random.default_rng().integers(0, 256, (6, 9, 3), dtype=np.uint8)}


class OneRestless:
    """A random transform of one example in `count`."""

    def __init__(self, count: int, index: int) -> None:
        self.count, self.index, self.reads = count, index, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        return {"image": PIXELS, "strength": float(self.reads if index == self.index else 0)}


@pytest.mark.parametrize(("count", "index"), [(3, 1), (16, 5), (100, 40), (100, 99)])
def test_a_spread_of_examples_is_read_again(count: int, index: int) -> None:
    with pytest.raises(DataError, match=rf"data\[{index}\] is another example each time it is read"):
        OwnData(OneRestless(count, index))


@pytest.mark.parametrize("count", [1, 100])
def test_sixteen_reads_look_for_a_random_transform(count: int) -> None:
    steady = OneRestless(count, -1)
    OwnData(steady)
    assert steady.reads == count + 16

    class Late(OneRestless):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**super().__getitem__(index), "strength": float(self.reads > count + 8)}

    with pytest.raises(DataError, match="is another example each time it is read"):
        OwnData(Late(count, -1))


class Broken(Restless):
    def __getitem__(self, index: int) -> dict[str, Any]:
        raise OSError("disk on fire")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (iter([{}]), "which has no length; make a list of it: data=list"),
        (Restless(), "data[0] is another example each time it is read"),
        (Broken(), "data[0]: reading it raised OSError: disk on fire"),
        ([{"caption": "a"}], "data[0]: has no 'image', only 'caption'"),
        ([whole(), "a.png"], "data[1]: expected a mapping such as {'image': picture"),
        ([{"image": "a.png"}], "data[0]['image']: expected a picture (PIL, uint8 (H, W, c)"),
        ([{"image": PIXELS.astype(np.int64)}], "data[0]['image']: its values are int64 from 0 to 2"),
        ([{"image": PIXELS / 127.5 - 1}], "floats in [0, 1] (take a normalisation out"),
        ([{"image": np.zeros((6, 9, 2), np.uint8)}], "got uint8 (6, 9, 2)"),
        ([{"image": PIXELS, "caption": 3}], "data[0]['caption']: expected a text, got 3"),
        ([{"image": PIXELS, "class": 1.5}], "data[0]['class']: expected a class, as a number from 0 on or a name"),
        ([{"image": PIXELS, "class": -1}], "data[0]['class']: expected a class"),
        ([{"image": PIXELS, "class": 1, "label": 1}], "the key 'label' comes twice"),
        (
            [{"image": PIXELS, "boxes": [[0, 0, 20, 20]]}],
            "data[0]['boxes']: expected boxes (N, 4) as x, y, w, h, shares",
        ),
        ([{"image": PIXELS, "embedding": [float("nan")]}], "data[0]['embedding']: expected finite numbers"),
        ([{"image": PIXELS, "mask": np.zeros((3, 3), np.uint8)}], "'mask' is (3, 3) beside a picture of (6, 9)"),
        ([{"image": PIXELS, "x": object()}], "data[0]['x']: expected a picture, an array, a tensor"),
        ([whole(), {"image": PIXELS}], "data[1]: has image, and data[0] has box_labels, boxes, caption"),
        ([{"image": PIXELS, "class": 1}, {"image": PIXELS, "class": "a"}], "'class_label' is a name in some examples"),
        ([{"image": PIXELS, "boxes": [[0, 0, 1, 1]], "box_labels": []}], "'box_labels' has 0 values beside 1 boxes"),
    ],
)
def test_what_cannot_be_used_is_named(data: Any, said: str) -> None:
    with pytest.raises(LDMError) as told:
        component_of(data)
    assert said in str(told.value) and len(str(told.value)) < 400


def test_a_recipe_knows_its_examples() -> None:
    component, values = component_of([whole(i) for i in range(3)])
    config = component.config(**{k: v for k, v in values.items() if k != "use"})
    made = component.load()(config, Site(size=(6, 9), channels=1))
    assert made[0]["image"].shape == (1, 6, 9) and made.describe().startswith("3 examples handed over in Python")
    with pytest.raises(ConfigError, match="others than the recipe's"):
        component.load()(component.config(examples=3, fingerprint="0"), Site(size=(6, 9)))


def test_a_data_set_of_the_contract_is_taken_as_it_is() -> None:
    own = OwnData([whole()])
    component, values = component_of(own)
    assert values["fingerprint"] == own.fingerprint() and component.load()(component.config(), Site(size=(6, 9)))[0]
