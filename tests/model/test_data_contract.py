"""Data sets that do not hand out what their keys say: named before a run, in the plugin's own terms."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ldm_core.catalog import Catalog
from ldm_core.errors import ContractError, DataError
from ldm_core.model.conformance.dataset import hold_data
from ldm_core.model.parts import make_dataset
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve

CATALOG = Catalog.discover()
PLAIN: dict[str, Any] = {
    "image_size": [16, 16],
    "first_stage": "identity",
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1, 2], "heads": 2, "attention": [2], "norm_groups": 8},
    "conditioners": [{"use": "bbox_layout", "classes": 8, "width": 16, "layers": 1, "heads": 2}],
    "dataset": {"use": "shapes", "scenes": 4, "val_scenes": 1},
}


class Changed:
    """The shapes, with one thing in each example changed."""

    def __init__(self, inner: Any, change: Callable[[dict[str, Any]], Any], **attributes: Any) -> None:
        self._inner, self._change, self._attributes = inner, change, attributes

    def __getattr__(self, name: str) -> Any:
        return self._attributes[name] if name in self._attributes else getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Any:
        return self._change(dict(self._inner[index]))

    def select(self, keys: Any) -> Changed:
        return Changed(self._inner.select(keys), self._change)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return resolve(PLAIN, CATALOG)


@pytest.fixture(scope="module")
def data(recipe: Recipe) -> Any:
    return make_dataset(recipe, CATALOG)


def _image(change: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda e: {**e, "image": change(np.asarray(e["image"]))}


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "floats": (_image(lambda a: a.astype(np.float32) / 255), "gave 'image' as float32 (3,"),
    "channels last": (_image(lambda a: a.transpose(1, 2, 0)), "with 1 or 3 channels"),
    "four channels": (_image(lambda a: np.concatenate([a, a[:1]])), "gave 'image' as uint8 (4,"),
    "no axis of channels": (_image(lambda a: a[0]), "uint8 (c, H, W)"),
    "a list": (_image(lambda a: a.tolist()), "gave 'image' as list"),
    "a path": (_image(lambda a: "photo.png"), "gave 'image' as str"),
    "a tuple": (lambda e: tuple(e.values()), "gave tuple; expected"),
    "nothing": (lambda e: {k: v for k, v in e.items() if k != "boxes"}, "without 'boxes'"),
    "boxes of three": (lambda e: {**e, "boxes": np.asarray(e["boxes"])[:, :3]}, "(N, 4) of x, y, w, h"),
    "one box": (lambda e: {**e, "boxes": np.asarray(e["boxes"])[0]}, "(N, 4) of x, y, w, h"),
    "labels of fewer": (lambda e: {**e, "box_labels": np.asarray(e["box_labels"])[:-1]}, "one a box"),
    "one label": (lambda e: {**e, "box_labels": 1}, "one a box"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_data_set_is_held_to_its_keys(fault: str, recipe: Recipe, data: Any) -> None:
    change, said = WRONG[fault]
    with pytest.raises(ContractError) as told:
        hold_data(Changed(data, change), recipe, CATALOG)
    text = str(told.value).replace("; expected: a mapping", "; expected a mapping")
    assert said.partition(";")[0] in text and "dataset 'shapes' (ldm-core" in text
    assert "expected:" in str(told.value) and text.splitlines()[-1].endswith("ldm_core.testing.DatasetSuite")


def test_a_kind_that_there_is_not(recipe: Recipe, data: Any) -> None:
    with pytest.raises(ContractError, match=r"keys is .*'depth'.*expected: key -> one of image, map, boxes"):
        hold_data(Changed(data, dict, keys={**data.keys, "far": "depth"}), recipe, CATALOG)


def test_what_is_right_passes(recipe: Recipe, data: Any) -> None:
    hold_data(data, recipe, CATALOG)
    from PIL import Image

    picture = _image(lambda a: Image.fromarray(a.transpose(1, 2, 0)))
    hold_data(Changed(data, picture), recipe, CATALOG)
    hold_data(Changed(data, lambda e: {**e, "boxes": [], "box_labels": []}), recipe, CATALOG)


def test_what_it_raises_is_named_and_a_bad_example_is_not(recipe: Recipe, data: Any) -> None:
    def fails(example: dict[str, Any]) -> Any:
        raise IndexError("list index out of range")

    def unreadable(example: dict[str, Any]) -> Any:
        raise DataError("zero: is no picture")

    with pytest.raises(IndexError) as told:
        hold_data(Changed(data, fails), recipe, CATALOG)
    assert "in __getitem__ of dataset 'shapes'" in "".join(traceback.format_exception(told.value))
    hold_data(Changed(data, unreadable), recipe, CATALOG)
