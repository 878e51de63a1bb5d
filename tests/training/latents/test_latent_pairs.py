"""Cached latents and what the conditioners read come from one example, also where one of the two cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_core.data.unreadable import BadExample
from ldm_core.errors import DataError
from ldm_core.recipe.settings import DataSettings
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.order import Place
from ldm_core.training.latents.cache import LatentExamples

COUNT = 12


class Captioned:
    """Examples with their number as caption, some of which cannot be read."""

    def __init__(self, bad: Iterable[int]) -> None:
        self.bad = set(bad)
        self.keys = {"caption": "value"}
        self.classes: Mapping[str, int] = {}
        self.class_names: Mapping[str, tuple[str, ...]] = {}
        self.max_bad = 0.9

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index in self.bad:
            raise BadExample(str(index), "broken")
        return {"caption": str(index)}

    def select(self, keys: Iterable[str]) -> Captioned:
        return self


class Kept:
    """Moments that hold the number of the picture that they were made from; `sizes`: of each example."""

    def __init__(self, lost: Iterable[int], sizes: Mapping[int, int]) -> None:
        self.lost, self.sizes = set(lost), sizes

    def __len__(self) -> int:
        return COUNT

    def source(self, index: int) -> int:
        size = self.sizes.get(index, 2)
        while index in self.lost or self.sizes.get(index, 2) != size:
            index = (index + 1) % COUNT
        return index

    def moments(self, index: int, flip: bool = False) -> Tensor:
        return torch.full((1, 2, self.sizes.get(index, 2)), float(self.source(index)))


@pytest.mark.parametrize("sizes", [{}, {3: 4, 5: 4, 6: 4, 11: 4}])
@pytest.mark.parametrize(
    ("unreadable", "lost"),
    [((), ()), ((4,), ()), ((), (4,)), ((4,), (4,)), ((4,), (5,)), ((4, 5), (6, 7)), ((11,), (0,)), ((0, 2), (1, 3))],
)
def test_the_two_are_of_one_example(unreadable: tuple[int, ...], lost: tuple[int, ...], sizes: dict[int, int]) -> None:
    cache: Any = Kept(lost, sizes)
    examples = Examples(Captioned(unreadable), (8, 8), DataSettings(keep=1 << 20), ["caption"])
    pairs = LatentExamples(cache, examples)
    for _ in range(2):  # a second time they come from memory
        for index in range(COUNT):
            got = pairs(Place(0, index, False))
            assert got["caption"] == str(int(got["moments"][0, 0, 0])), f"of example {index}"
            assert got["moments"].shape[-1] == sizes.get(index, 2)
            if index not in unreadable and index not in lost:
                assert got["caption"] == str(index)


def test_nothing_that_can_be_read_whole_is_an_error() -> None:
    cache: Any = Kept(range(6), {})
    pairs = LatentExamples(cache, Examples(Captioned(range(6, 12)), (8, 8), DataSettings(keep=0), ["caption"]))
    with pytest.raises(DataError, match="no example can be read with all that the conditioners read"):
        pairs(Place(0, 6, False))
    assert np.isfinite(cache.moments(0)).all()
