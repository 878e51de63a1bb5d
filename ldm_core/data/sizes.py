"""The sizes of an example's picture as batch keys: as it is stored, where it is cut, and as it is handed out.

:data:`ldm_core.contracts.SIZE_KEYS` has the promise. A data set's own keys of these names are its own business: they
win, and a list of two numbers becomes an array.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Dataset
from ldm_core.contracts.answers import DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.contracts.values import SIZE_KEYS
from ldm_core.data.geometry import Fit


def written(dataset: Dataset, keys: Iterable[str]) -> list[str]:
    """Those of `keys` that are written beside `dataset`, which does not offer them itself, in the order of SIZE_KEYS.

    One that a mixture cannot offer, as some of its parts alone have it, is none of them: its `select` says why.
    """
    wanted, lacks = set(keys), of(DatasetAnswers, dataset).lacks
    return [key for key in SIZE_KEYS if key in wanted and key not in dataset.keys and key not in lacks]


def select(dataset: Dataset, keys: Iterable[str]) -> Dataset:
    """The view of `dataset` with `keys`, but for those that are written beside it."""
    keys = list(dict.fromkeys(keys))
    beside = written(dataset, keys)
    return dataset.select([key for key in keys if key not in beside])


def paired(dataset: Dataset, reads: Iterable[str]) -> Dataset:
    """The view of examples with an image and all that conditioners read."""
    return select(dataset, ["image", *reads])


def sizes_of(step: Fit, flip: bool) -> dict[str, NDArray[np.int64]]:
    """The three sizes, each (2,) int64, of a picture that goes through `step` and is then mirrored with `flip`."""
    top, left = -step.offset[0], -step.offset[1]
    if flip:  # the mirrored picture, cut so that the same comes out
        left = step.resized[1] - step.target[1] - left
    values = (step.source, (top, left), step.target)
    return {key: np.array(value, dtype=np.int64) for key, value in zip(SIZE_KEYS, values, strict=True)}


def default_sizes(size: tuple[int, ...], keys: Iterable[str]) -> dict[str, NDArray[np.int64]]:
    """Those of the three sizes that are among `keys`, of a picture of `size` (h, w) with nothing cut off."""
    whole = (int(size[-2]), int(size[-1]))
    made = sizes_of(Fit(whole, whole, whole, (0, 0)), flip=False)
    return {key: value for key, value in made.items() if key in keys}


def own_sizes(example: Mapping[str, object]) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
    """Arrays for those sizes that an example brings itself as lists of two numbers."""
    found: dict[str, NDArray[np.int64] | NDArray[np.float32]] = {}
    for key in SIZE_KEYS:
        value = example.get(key)
        kinds = [type(number) for number in value] if isinstance(value, list | tuple) else []
        if kinds == [int, int]:
            found[key] = np.array(value, dtype=np.int64)
        elif kinds == [float, float]:
            found[key] = np.array(value, dtype=np.float32)
    return found
