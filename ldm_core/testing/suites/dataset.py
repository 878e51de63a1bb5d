"""The conformance suite of data sets."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ldm_core.contracts import Dataset, DatasetAnswers, configs
from ldm_core.testing.base import Suite, same
from ldm_core.testing.rules import Rule, must_raise

_GEOMETRIES = ("image", "map", "boxes", "per_box", "value")


class DatasetSuite(Suite):
    """Subclass it, set `component` and `settings`.

    The suite of a data set of files writes them in :meth:`make_data` and returns their settings. `other_settings` make
    it other data, with another fingerprint.
    """

    kind = "dataset"
    protocol: ClassVar[type] = Dataset
    other_settings: ClassVar[Mapping[str, Any] | None] = None
    _made: Mapping[str, Any]

    def make_data(self, folder: Path) -> Mapping[str, Any]:
        """Write the data set's files into `folder`, and return the settings that name them."""
        return {}

    @pytest.fixture(autouse=True)
    def _data_on_disk(self, tmp_path: Path) -> None:
        self._made = self.make_data(tmp_path)

    def config(self, **overrides: Any) -> Any:
        """The config with the settings that :meth:`make_data` gave."""
        return super().config(**{**getattr(self, "_made", {}), **overrides})

    @Rule(
        Dataset.__getitem__,
        "with exactly `keys`, each of its geometry",
        "put into an example the keys that `keys` declares, and these alone",
    )
    def test_examples_hold_the_declared_keys(self) -> None:
        """Every example has exactly `keys`, each of a known geometry."""
        data = self.build()
        assert len(data) > 0, "the data set is empty"
        unknown = {k: g for k, g in data.keys.items() if g not in _GEOMETRIES}
        assert not unknown, f"unknown geometries {unknown}; there are {_GEOMETRIES}"
        for index in self._some(data):
            example = data[index]
            assert set(example) == set(data.keys), (
                f"example {index} has {sorted(example)}, keys are {sorted(data.keys)}"
            )

    @Rule(
        Dataset,
        "`keys` name -> geometry",
        "hand out arrays as the geometry says (images uint8 from 0 to 255, boxes as parts of the picture)",
    )
    def test_values_have_their_geometry(self) -> None:
        """Images are uint8 (c, H, W); maps end in (H, W); boxes (N, 4) lie in [0, 1]; per_box goes with them."""
        data = self.build()
        for index in self._some(data):
            example = data[index]
            for key, geometry in data.keys.items():
                _check_geometry(f"{key} of example {index}", example[key], geometry, self.image_channels)
            boxes = [len(example[k]) for k, g in data.keys.items() if g in ("boxes", "per_box")]
            assert len(set(boxes)) <= 1, f"example {index}: boxes and their labels count {boxes}"
            grids = {example[k].shape[-2:] for k, g in data.keys.items() if g in ("image", "map")}
            assert len(grids) <= 1, f"example {index}: image and maps have sizes {sorted(grids)}"

    @Rule(Dataset, "Labels lie in [0, classes)", "count labels from 0, and set classes above the highest")
    def test_classes_count_what_occurs(self) -> None:
        """`classes` and `class_names` are of declared keys, agree, and every label lies below its count."""
        data = self.build()
        assert set(data.classes) <= set(data.keys), (
            f"classes names {sorted(set(data.classes) - set(data.keys))}, no key"
        )
        for key, names in data.class_names.items():
            assert len(names) == data.classes.get(key), f"{key}: {len(names)} names, {data.classes.get(key)} classes"
        for index in sorted({i * len(data) // 24 for i in range(24)}):
            example = data[index]
            for key, count in data.classes.items():
                labels = np.asarray(example[key])
                if labels.size:
                    assert labels.min() >= 0 and labels.max() < count, f"{key} {labels.max()} of {count} classes"

    @Rule(
        Dataset.__getitem__,
        "a function of the index alone",
        "draw what is random from a seed made of the index (mix_seed), and keep no state between readings",
    )
    def test_the_same_index_gives_the_same_example(self) -> None:
        """An example depends on its index alone: not on the order, the instance or what was read before."""
        data, other = self.build(), self.build()
        indices = self._some(data)
        first = [data[i] for i in indices]
        assert all(same(a, data[i]) for a, i in zip(first, indices, strict=True)), "a second reading differs"
        backwards = [other[i] for i in reversed(indices)]
        assert all(same(a, b) for a, b in zip(first, reversed(backwards), strict=True)), "another instance differs"

    @Rule(Dataset.__getitem__, "the caller's to edit", "hand out a copy of an array that the data set keeps")
    def test_examples_are_the_callers(self) -> None:
        """Writing over the arrays of an example does not change the next reading."""
        data = self.build()
        for index in self._some(data):
            given = {k: v for k, v in data[index].items() if isinstance(v, np.ndarray) and v.flags.writeable}
            before = {k: v.copy() for k, v in given.items()}
            for value in given.values():
                value[...] = np.zeros((), value.dtype) if value.any() else np.ones((), value.dtype)
            again = data[index]
            changed = [k for k, v in before.items() if not same(v, again[k])]
            assert not changed, f"writing over {', '.join(changed)} of example {index} changes the next reading"

    @Rule(
        Dataset.__getitem__,
        "IndexError where the index is not below the length",
        "raise IndexError there: plain iteration ends by it",
    )
    def test_ends_at_its_length(self) -> None:
        """Past the end there is IndexError, so that plain iteration ends."""
        data = self.build()
        must_raise(IndexError, lambda: data[len(data)], f"data[{len(data)}] of {len(data)} examples")

    @Rule(
        Dataset,
        "A size that is told without decoding is the picture's",
        "count as __getitem__ does, in a view and upright, and tell (0, 0) where the header says nothing",
    )
    def test_told_sizes_are_the_pictures(self) -> None:
        """`image_size` and `image_sizes` are the pictures', or say that they do not know; `image_form` is a text."""
        data = self.build()
        if "image" not in data.keys:
            return
        answers = configs.of(DatasetAnswers, data)
        for index in self._some(data):
            told = [] if answers.image_size is None else [tuple(answers.image_size(index))]
            told += [] if answers.image_sizes is None else [tuple(map(int, answers.image_sizes()[index]))]
            drawn = data[index]["image"].shape[-2:]
            wrong = [size for size in told if any(size) and size != drawn]
            assert not wrong, f"example {index} is told to be {wrong[0]}, and its picture is {drawn} (height, width)"
            form = answers.image_form(index) if answers.image_form else ""
            assert isinstance(form, str), f"image_form({index}) is {form!r}; expected a text, empty where not known"

    @Rule(
        Dataset, "A data set can be pickled", "open files and connections when they are first read, and hold no lambda"
    )
    def test_is_picklable(self) -> None:
        """A worker process gets a copy that reads the same, also after the first was used."""
        data = self.build()
        first = data[0]
        copy = pickle.loads(pickle.dumps(data))
        assert len(copy) == len(data) and same(copy[0], first), "a pickled copy reads something else"
        assert copy.fingerprint() == data.fingerprint(), "a pickled copy has another fingerprint"

    @Rule(
        Dataset.select,
        "A view whose examples decode and hold only `keys`",
        "return a new data set of the same examples whose keys, classes and class_names are narrowed",
    )
    def test_select_narrows(self) -> None:
        """select(keys) gives a view of those keys, values and order as they were; the data set itself keeps all."""
        data = self.build()
        before = dict(data.keys)
        for key in data.keys:
            view = data.select([key])
            assert set(view.keys) == {key}, f"select(['{key}']) has the keys {sorted(view.keys)}"
            assert len(view) == len(data), f"select(['{key}']) has {len(view)} examples of {len(data)}"
            example = view[0]
            assert set(example) == {key}, f"an example of select(['{key}']) holds {sorted(example)}"
            assert same(example[key], data[0][key]), f"select(['{key}']) changes the value"
            assert set(view.classes) <= {key}, f"select(['{key}']) has the classes of {sorted(view.classes)}"
        assert dict(data.keys) == before, "select changed the data set"

    @Rule(
        Dataset.fingerprint,
        "equal for equal data, another for other data",
        "hash what is read (names, sizes, settings), and no address, time or order of a set",
    )
    def test_fingerprint_is_stable(self) -> None:
        """Equal data has an equal fingerprint, in another instance and after reading."""
        data = self.build()
        before = data.fingerprint()
        assert isinstance(before, str) and before, "the fingerprint is no text"
        _ = data[0]
        assert before == data.fingerprint() == self.build().fingerprint(), "the fingerprint of the same data changed"

    @Rule(
        Dataset.fingerprint,
        "equal for equal data, another for other data",
        "hash all that changes an example: files, their sizes and the settings",
    )
    def test_fingerprint_tells_other_data(self) -> None:
        """Other data has another fingerprint."""
        if self.other_settings is None:
            pytest.skip("other_settings says no other data to compare with")
        other = self.build(self.other_settings)
        assert other.fingerprint() != self.build().fingerprint(), "other data has the same fingerprint"

    @staticmethod
    def _some(data: Any) -> list[int]:
        count = len(data)
        return sorted({0, 1 % count, count // 2, count - 1})


def _check_geometry(what: str, value: Any, geometry: str, channels: int) -> None:
    if geometry == "value":
        return
    assert isinstance(value, np.ndarray), f"{what} is {type(value).__name__}, not an array"
    if geometry == "image":
        assert value.dtype == np.uint8, f"{what} is {value.dtype}, not uint8"
        assert value.ndim == 3 and value.shape[0] == channels, f"{what} has shape {value.shape}, not ({channels}, H, W)"
    elif geometry == "map":
        assert value.ndim >= 2, f"{what} has shape {value.shape}, not (..., H, W)"
    elif geometry == "boxes":
        assert value.ndim == 2 and value.shape[1] == 4, f"{what} has shape {value.shape}, not (N, 4)"
        assert value.dtype == np.float32, f"{what} is {value.dtype}, not float32"
        corners = value[:, :2] + value[:, 2:]
        inside = value.size == 0 or (value.min() >= 0 and corners.max() <= 1 + 1e-5)
        assert inside, f"{what} leaves the image: x, y, w, h are parts of its size, in [0, 1]"
    else:
        assert value.ndim >= 1, f"{what} has no axis for the boxes"
