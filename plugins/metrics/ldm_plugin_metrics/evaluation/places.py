"""Places of pictures: data by name, folder or URL, the data of a run, files of arrays; and who was trained on them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents, overrides
from ldm_core.contracts import DatasetConfig
from ldm_core.contracts.configs import of
from ldm_core.data.arrays import read_npy
from ldm_core.data.records.guess import guess_reader
from ldm_core.errors import ConfigError, DataError, NoSplit
from ldm_core.model.parts import data_info, held_out_data, make_dataset
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve, use_storage
from ldm_plugin_metrics.evaluation.fitting import Fitting
from ldm_plugin_metrics.evaluation.pictures import ArrayPictures, DataPictures, PictureSet
from ldm_plugin_metrics.evaluation.statistics import is_archive, read_pictures

OWN = "run"
"""The name of a run's own data, as a place."""
_WORDS = {"reference": "against", "originals": "against"}
_OTHERS = ("val", "test")
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def is_model(place: str, catalog: Catalog) -> bool:
    """True if a place is a run or weights, False if it is pictures."""
    name = storage.base_name(place.rstrip("/")).lower()
    if place in catalog.names("dataset") or name.endswith((".npz", ".npy", ".tar")):
        return False
    if name.endswith(_WEIGHTS):
        return True
    if not storage.is_folder(place):
        return False
    inside = (artifacts.MODEL_FILE, artifacts.STAGE_FILE, RECIPE_FILE, "model_index.json")
    return any(storage.exists(storage.join(place, each)) for each in inside)


@attrs.frozen(eq=False)
class Opener:
    """Data by place, at the size and channels of `fitting`."""

    catalog: Catalog
    fitting: Fitting

    def pictures(
        self, place: str, settings: Sequence[str], *, name: str, count: int | None = None
    ) -> DataPictures | ArrayPictures:
        """The pictures at a place: a data set's name, a folder, tars, or a file of arrays (.npz, .npy)."""
        if is_archive(place) or place.lower().endswith(".npy"):
            if settings:
                raise ConfigError(f"{settings[0]}: {storage.shown(place)} is a file of arrays, without settings")
            images = read_pictures(place) if is_archive(place) else _array(place)
            found = ArrayPictures(images, what=storage.shown(place), name=name, count=count)
            if self.fitting.size not in (None, found.size):
                height, width = found.size
                raise ConfigError(
                    f"{storage.shown(place)}: pictures of {height}x{width}, and the others have "
                    f"{self.fitting.size[0]}x{self.fitting.size[1]}; arrays are taken as they are"  # type: ignore[index]
                )
            return found
        row: dict[str, Any] = {"use": place}
        if place not in self.catalog.names("dataset"):
            row = {"use": guess_reader(place), "url": place}
        recipe = self._recipe({"dataset": row}, settings, _WORDS.get(name, name))
        dataset, split = self._opened(recipe, settings)
        return DataPictures(dataset, self.fitting, name=name, what=storage.shown(place) + split, count=count)

    def _opened(self, recipe: Recipe, settings: Sequence[str]) -> tuple[Any, str]:
        """The data, and their split for readers: the training split or, if there is none and nobody chose one, the
        validation split or the test split."""
        try:
            return make_dataset(recipe, self.catalog), _split(recipe)
        except NoSplit:
            if _chosen(settings):
                raise
        for split in _OTHERS[:-1]:
            with contextlib.suppress(NoSplit):
                return make_dataset(recipe, self.catalog, split=split), f" ({split})"
        return make_dataset(recipe, self.catalog, split=_OTHERS[-1]), f" ({_OTHERS[-1]})"

    def held_out(
        self, run: Run, settings: Sequence[str], *, count: int | None = None, name: str = "reference"
    ) -> DataPictures:
        """The held-out pictures of a run's data, its training pictures if it has no others, or the choice of
        `settings`."""
        recipe = self._recipe(run.data, settings, "against")
        training = make_dataset(recipe, self.catalog)
        found = None if _chosen(settings) else held_out_data(recipe, self.catalog, data_info(training))
        what = f"the run's data{_split(recipe)}" if found is None else "the run's held-out data"
        return DataPictures(training if found is None else found, self.fitting, name=name, what=what, count=count)

    def training(self, run: Run, *, count: int | None = None) -> DataPictures:
        """The training pictures of a run."""
        dataset = make_dataset(self._recipe(run.data, (), "training"), self.catalog)
        return DataPictures(dataset, self.fitting, name="training", what="the run's training data", count=count)

    def _recipe(self, plain: Mapping[str, Any], settings: Sequence[str], word: str) -> Recipe:
        """A recipe with the data of `plain`; `settings` are of the data, after `word`."""
        kept = dict(plain)
        overrides.apply_overrides(kept, [f"dataset.{line.partition('.')[2]}" for line in settings], ["dataset"])
        size = self.fitting.size or (64, 64)
        use_storage(kept)
        try:
            return resolve({**kept, "image_size": list(size), "image_channels": self.fitting.channels}, self.catalog)
        except ConfigError as error:
            raise ConfigError([line.replace("dataset", word, 1) for line in error.problems]) from None


@attrs.frozen(eq=False)
class Run:
    """The recipe of a run's folder, as plain values: its data, its size.

    Anybody may have written it. So, unless the user `asked` for its data, remote places in it are left alone, and so
    are its settings of storage and caches.
    """

    folder: str
    plain: Mapping[str, Any]
    asked: bool = False

    @classmethod
    def of(cls, place: str, *, asked: bool = False) -> Run | None:
        """The run at a place; None if that is no run's folder."""
        url = storage.join(place, RECIPE_FILE)
        if place.endswith(_WEIGHTS) or not storage.exists(url):
            return None
        plain = documents.parse_yaml(storage.read_text(url), url)
        if not isinstance(plain, Mapping):
            raise ConfigError(f"{storage.shown(url)}: is no recipe")
        return cls(place, plain, asked)

    @property
    def data(self) -> dict[str, Any]:
        """The keys of the recipe for its data."""
        keys = ("dataset", "data", "storage") if self.asked else ("dataset",)
        return {key: self.plain[key] for key in keys if key in self.plain}

    @property
    def far(self) -> list[str]:
        """The remote places in the settings of its data, left alone; none if the user asked for them."""
        texts = () if self.asked else documents.texts(self.plain.get("dataset"))
        return [text for text in texts if "://" in text and storage.local_path(text) is None]

    def require_near(self) -> None:
        """ConfigError if the data lie elsewhere than on this machine, and nobody asked for them."""
        if self.far:
            raise ConfigError(
                f"{storage.shown(self.folder)}: its recipe names data at {storage.shown(self.far[0])}; say that it is "
                f"to be read, with --against {OWN}, or give other pictures, with --against DATA"
            )


def overlap(reference: PictureSet, run: Run | None, opener: Opener) -> str:
    """Say it of a reference of training pictures of the run; "" for every other one."""
    if run is None or not isinstance(reference, DataPictures):
        return ""
    if run.far:
        same = reference.what.removesuffix(" (train)") in map(storage.shown, run.far)
    else:
        try:
            same = opener.training(run).fingerprint == reference.fingerprint
        except (ConfigError, DataError):
            return ""
    if not same:
        return ""
    return (
        f"the reference, {reference.what}, is what the model was trained on: a model that copies its training pictures "
        "scores best; give held-out pictures, with --against DATA or against.split=val"
    )


def _array(place: str) -> np.ndarray[Any, Any]:
    path = storage.local_path(place)
    if path is None:
        return read_npy(storage.read_bytes(place), storage.shown(place))
    try:
        found: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{storage.shown(place)}: does not read ({error}); write it with numpy.save") from None
    return found


def _chosen(settings: Sequence[str]) -> bool:
    return any(line.partition("=")[0].endswith(".split") for line in settings)


def _split(recipe: Recipe) -> str:
    split = of(DatasetConfig, recipe.dataset.config).split
    return f" ({split})" if split else ""
