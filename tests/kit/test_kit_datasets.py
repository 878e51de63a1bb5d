"""The suite of data sets: a right one passes, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from planted import Mistake, assert_found, faults_of, mistakes

from ldm_core.contracts import EMPTY, Dataset, Site
from ldm_core.testing import DatasetSuite, batches


@attrs.frozen(kw_only=True)
class DataConfig:
    seed: int = 0
    folder: str = attrs.field(default="", metadata={"place": True})


class Examples(Dataset):
    """The kit's own examples."""

    all_keys: Mapping[str, str] = batches.INFO.keys

    def __init__(self, config: DataConfig, site: Site, keys: Iterable[str] | None = None) -> None:
        self.config, self.site = config, site
        self.keys = {k: g for k, g in self.all_keys.items() if keys is None or k in set(keys)}
        self.classes = {k: n for k, n in batches.CLASSES.items() if k in self.keys}
        self.class_names: Mapping[str, tuple[str, ...]] = EMPTY

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index >= len(self):
            raise IndexError(index)
        example = batches.example(index + 100 * self.config.seed, self.site.size, self.site.channels)
        return {k: v for k, v in self.change(example).items() if k in self.keys}

    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return example

    def select(self, keys: Iterable[str]) -> Examples:
        return type(self)(self.config, self.site, keys)

    def fingerprint(self) -> str:
        return f"examples-{self.config}-{self.site.size}"


class Endless(Examples):
    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return super().__getitem__(index % len(self))


class TellsItsSizes(Examples):
    """Sizes of pictures without decoding them: allowed."""

    def image_size(self, index: int) -> tuple[int, int]:
        return (0, 0) if index % 2 else (self.site.size[0], self.site.size[1])

    def image_sizes(self) -> Any:
        return np.array([self.site.size] * len(self))


class TellsOneSize(Examples):
    def image_size(self, index: int) -> tuple[int, int]:
        return 64, 48


class TellsNoWords(Examples):
    def image_form(self, index: int) -> Any:
        return ("PNG", "RGBA")


class TellsOtherSizes(Examples):
    def image_sizes(self) -> Any:
        return np.array([self.site.size] * (len(self) - 1) + [(9, 9)])


class Augments(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "class_label": random.randrange(5)}


class FloatImages(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "image": example["image"].astype(np.float32) / 255}


class PixelBoxes(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "boxes": example["boxes"] * 32}


class LostLabels(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "box_labels": example["box_labels"][:-1]}


class CountsFromOne(Examples):
    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "class_label": example["class_label"] + 1}


class Undeclared(Examples):
    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {**super().__getitem__(index), "secret": 1}


class NotPicklable(Examples):
    def __init__(self, config: DataConfig, site: Site, keys: Iterable[str] | None = None) -> None:
        super().__init__(config, site, keys)
        self.open = lambda: None


class SelectsAll(Examples):
    def select(self, keys: Iterable[str]) -> Examples:
        return self


class Fingerprint(Examples):
    def fingerprint(self) -> str:
        return f"{id(self)}"


class FingerprintOfNothing(Examples):
    def fingerprint(self) -> str:
        return "examples"


class Continues(Examples):
    """A generator of its own that goes on from reading to reading: an example depends on those before it."""

    def __init__(self, config: DataConfig, site: Site, keys: Iterable[str] | None = None) -> None:
        super().__init__(config, site, keys)
        self.draw = np.random.default_rng(0)

    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "class_label": int(self.draw.integers(5))}


class Shares(Examples):
    """Hands out the arrays that it keeps."""

    kept: Mapping[int, dict[str, Any]]

    def __init__(self, config: DataConfig, site: Site, keys: Iterable[str] | None = None) -> None:
        super().__init__(config, site, keys)
        self.kept = {}

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index not in self.kept:
            self.kept = {**self.kept, index: dict(super().__getitem__(index))}
        return dict(self.kept[index])


class OtherGrid(Examples):
    """Maps at half the picture's size."""

    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "segmentation": example["segmentation"][::2, ::2]}


class ChannelsLast(Examples):
    """Pictures as PIL and numpy have them."""

    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "image": example["image"].transpose(1, 2, 0)}


class Renames(Examples):
    """Offers what it does not hand out."""

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {k: v for k, v in super().__getitem__(index).items() if k != "caption"}


class TooManyNames(Examples):
    def __init__(self, config: DataConfig, site: Site, keys: Iterable[str] | None = None) -> None:
        super().__init__(config, site, keys)
        self.class_names = {"class_label": ("one", "two")} if "class_label" in self.keys else EMPTY


class Cropping(Examples):
    """A view that reads other pixels than the whole."""

    def change(self, example: dict[str, Any]) -> dict[str, Any]:
        return example if len(self.keys) > 1 else {**example, "image": example["image"][:, ::-1].copy()}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    state = random.getstate()
    random.seed(5)
    yield
    random.setstate(state)


def test_a_right_data_set_passes() -> None:
    assert not faults_of(DatasetSuite, Examples, DataConfig, other_settings={"seed": 1})


@mistakes(
    Mistake(Endless, "test_ends_at_its_length", ("data[11] of 11 examples", "must raise IndexError")),
    Mistake(TellsOneSize, "test_told_sizes_are_the_pictures", "told to be (64, 48), and its picture is (32, 32)"),
    Mistake(TellsNoWords, "test_told_sizes_are_the_pictures", "image_form(0) is ('PNG', 'RGBA'); expected a text"),
    Mistake(TellsOtherSizes, "test_told_sizes_are_the_pictures", "example 10 is told to be (9, 9)"),
    Mistake(Augments, "test_the_same_index_gives_the_same_example", "a second reading differs"),
    Mistake(Continues, "test_the_same_index_gives_the_same_example", "a second reading differs"),
    Mistake(Shares, "test_examples_are_the_callers", "changes the next reading"),
    Mistake(FloatImages, "test_values_have_their_geometry", "image of example 0 is float32, not uint8"),
    Mistake(ChannelsLast, "test_values_have_their_geometry", "image of example 0 has shape (32, 32, 3)"),
    Mistake(PixelBoxes, "test_values_have_their_geometry", "boxes of example 0 leaves the image"),
    Mistake(LostLabels, "test_values_have_their_geometry", "boxes and their labels count"),
    Mistake(OtherGrid, "test_values_have_their_geometry", "image and maps have sizes"),
    Mistake(CountsFromOne, "test_classes_count_what_occurs", "class_label 5 of 5 classes"),
    Mistake(TooManyNames, "test_classes_count_what_occurs", "class_label: 2 names, 5 classes"),
    Mistake(Undeclared, "test_examples_hold_the_declared_keys", "secret"),
    Mistake(Renames, "test_examples_hold_the_declared_keys", "keys are"),
    Mistake(NotPicklable, "test_is_picklable", "pickle"),
    Mistake(SelectsAll, "test_select_narrows", "has the keys"),
    Mistake(Cropping, "test_select_narrows", "select(['image']) changes the value"),
    Mistake(Fingerprint, "test_fingerprint_is_stable", "the fingerprint of the same data changed"),
    Mistake(FingerprintOfNothing, "test_fingerprint_tells_other_data", "other data has the same fingerprint"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(DatasetSuite, mistake, DataConfig, other_settings={"seed": 1})


def test_a_data_set_of_files_gets_its_folder() -> None:
    class OfFiles(Examples):
        def __len__(self) -> int:
            return int((Path(self.config.folder) / "count.txt").read_text())

    def make_data(self: Any, folder: Path) -> dict[str, Any]:
        (folder / "count.txt").write_text("5")
        return {"folder": str(folder)}

    found = faults_of(DatasetSuite, OfFiles, DataConfig, make_data=make_data)
    assert set(found) == {"test_is_picklable"}  # a class inside a function has no address to unpickle from
