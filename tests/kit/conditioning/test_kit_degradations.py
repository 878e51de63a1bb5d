"""The suite of degradations: right ones pass, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from planted import Mistake, assert_found, assert_told, faults_of, mistakes

from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.contracts import Degradation, DegradationConfig, Site
from ldm_core.testing import DegradationSuite
from ldm_core.testing.running import failures


@attrs.frozen(kw_only=True)
class PictureConfig(DegradationConfig):
    makes: ClassVar[Any] = "image"


@attrs.frozen(kw_only=True)
class HoleConfig(DegradationConfig):
    makes: ClassVar[Any] = "mask"


@attrs.frozen(kw_only=True)
class WordConfig(DegradationConfig):
    makes: ClassVar[Any] = "noise"


class Right(Degradation):
    """Noise in a small picture."""

    def __init__(self, config: PictureConfig, site: Site) -> None:
        self.config = config

    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        tall, wide = picture.shape[1] // size[0], picture.shape[2] // size[1]
        return picture[:, ::tall, ::wide] ^ random.integers(0, 4, (len(picture), *size), dtype=np.uint8)


class Hole(Degradation):
    def __init__(self, config: HoleConfig, site: Site) -> None:
        self.config = config

    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        made = np.zeros(picture.shape[1:], dtype=np.uint8)
        made[random.integers(len(made)) :] = 255
        return made


class OnesInHoles(Hole):
    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        return super().degrade(picture, size, random) // 255


class AsLargeAsItWas(Right):
    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        return picture.copy()


class Floats(Right):
    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        return super().degrade(picture, size, random) / 255.0


class OwnNoise(Right):
    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        return super().degrade(picture, size, np.random.default_rng())


class GlobalNoise(Right):
    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        return super().degrade(picture, size, random) ^ np.uint8(np.random.randint(256))


class Counts(Right):
    count = 0

    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        self.count += 1
        return super().degrade(picture, size, np.random.default_rng([self.count, int(random.integers(99))]))


class Paints(Right):
    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        made = super().degrade(picture, size, random)
        picture[:] = 0
        return made


class Views(Right):
    def degrade(self, picture: Any, size: tuple[int, int], random: np.random.Generator) -> Any:
        return picture[:, : size[0], : size[1]]


def test_right_ones_pass() -> None:
    assert not faults_of(DegradationSuite, Right, PictureConfig)
    assert not faults_of(DegradationSuite, Hole, HoleConfig)


@mistakes(
    Mistake(AsLargeAsItWas, "test_makes_what_its_config_says", ("size (16, 16)", "(3, 32, 32) came")),
    Mistake(Floats, "test_makes_what_its_config_says", "float64, not uint8"),
    Mistake(OnesInHoles, "test_makes_what_its_config_says", "holds [1]; holes are 255", HoleConfig),
    Mistake(Right, "test_makes_what_its_config_says", "config.makes is 'noise'", WordConfig),
    Mistake(OwnNoise, "test_equal_generators_give_equal_results", "with equal generators differ"),
    Mistake(GlobalNoise, "test_equal_generators_give_equal_results", "with equal generators differ"),
    Mistake(GlobalNoise, "test_global_generators_stay", "draws from a global generator"),
    Mistake(Counts, "test_nothing_is_kept_between_calls", "depends on what was made before"),
    Mistake(Paints, "test_the_picture_stays", "degrade changes the picture"),
    Mistake(Views, "test_the_picture_stays", "is a view of the picture"),
)
def test_mistakes_are_found(mistake: Mistake) -> None:
    assert_found(DegradationSuite, mistake, PictureConfig)


def test_torch_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_degradation.py").write_text("import torch\n\nHeavy = None\n")
    (tmp_path / "torch.py").write_text("")  # for the other process: the real one takes seconds
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("heavy_degradation")
    catalog = Catalog()
    part = Component(
        kind="degradation", name="heavy", config=PictureConfig, factory="heavy_degradation:Heavy", summary="a toy"
    )
    catalog.register(part)
    suite = type("Mine", (DegradationSuite,), {"component": "heavy", "catalog": catalog})
    found = failures(suite, "test_imports_no_torch")
    assert_told(found["test_imports_no_torch"], "importing heavy_degradation imports torch")
    del sys.modules["heavy_degradation"]
