"""The conformance suite of degradations."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Degradation, DegradationConfig, configs
from ldm_core.testing import batches
from ldm_core.testing.base import Suite, generators, same
from ldm_core.testing.rules import Rule

SAME = Rule(
    Degradation.degrade,
    "equal generators give equal results",
    "draw every number from `random`, and make no generator of your own",
)


class DegradationSuite(Suite):
    """Subclass it, set `component` and `settings`. A small picture is asked for by each of `factors`; a mask has
    the picture's size."""

    kind = "degradation"
    protocol: ClassVar[type] = Degradation
    factors: ClassVar[tuple[int, ...]] = (2, 4, 8)

    def picture(self, index: int = 0, size: tuple[int, ...] | None = None, channels: int = 3) -> NDArray[np.uint8]:
        """A picture uint8 (c, H, W)."""
        made: NDArray[np.uint8] = batches.example(index, size or self.sizes[0], channels)["image"]
        return made

    def small(self, picture: NDArray[np.uint8], factor: int) -> tuple[int, int]:
        """The `size` for a factor."""
        height, width = picture.shape[1:]
        return (height // factor, width // factor) if self._makes == "image" else (height, width)

    @property
    def _makes(self) -> str:
        made: str = configs.of(DegradationConfig, self.config()).makes
        return made

    @Rule(
        Degradation.degrade,
        "the config's `makes`, of uint8",
        "give a new array of uint8 in the shape that the config's `makes` stands for",
    )
    def test_makes_what_its_config_says(self) -> None:
        """Pictures (c, *size) for pictures of 1 and 3 channels, or masks (H, W) with 0 and 255 alone."""
        assert self._makes in ("image", "mask"), f"config.makes is {self._makes!r}, not 'image' or 'mask'"
        part = self.build()
        for picture, size in self._asked():
            made = part.degrade(picture, size, np.random.default_rng(1))
            wanted = (len(picture), *size) if self._makes == "image" else picture.shape[1:]
            assert isinstance(made, np.ndarray), f"degrade gives {type(made).__name__}, not an array"
            assert made.shape == wanted, f"a picture {picture.shape}, size {size}: {made.shape} came, not {wanted}"
            assert made.dtype == np.uint8, f"degrade gives {made.dtype}, not uint8"
            others = sorted(set(np.unique(made).tolist()).difference((0, 255))) if self._makes == "mask" else []
            assert not others, f"a mask holds {others[:5]}; holes are 255, all else is 0"

    @SAME
    def test_equal_generators_give_equal_results(self) -> None:
        """Two parts, and one asked twice, give the same for equal generators, whatever the global ones say."""
        one, other = self.build(), self.build()
        for picture, size in self._asked():
            np.random.seed(3)
            first = one.degrade(picture, size, np.random.default_rng(7))
            np.random.seed(4)
            again = one.degrade(picture, size, np.random.default_rng(7))
            assert same(first, again), "two calls with equal generators differ"
            assert same(first, other.degrade(picture, size, np.random.default_rng(7))), "two equal parts differ"

    @Rule(Degradation.degrade, "All draws are made from `random`", "leave the global generators of numpy alone")
    def test_global_generators_stay(self) -> None:
        """The states of torch's, numpy's and Python's own generators stay."""
        part, before = self.build(), generators()
        for picture, size in self._asked():
            part.degrade(picture, size, np.random.default_rng(7))
        assert same(before, generators()), "degrade draws from a global generator"

    @Rule(
        Degradation,
        "keeps nothing between calls",
        "hold settings alone; what follows from a picture is made again at each call",
    )
    def test_nothing_is_kept_between_calls(self) -> None:
        """A picture has one result, after any other one and in a pickled copy."""
        asked = list(self._asked())
        part, turned = self.build(), pickle.loads(pickle.dumps(self.build()))
        make = lambda it, i: it.degrade(*asked[i], np.random.default_rng(i))  # noqa: E731
        forward = [make(part, i) for i in range(len(asked))]
        backward = [make(turned, i) for i in reversed(range(len(asked)))][::-1]
        assert same(forward, backward), "what is made depends on what was made before"

    @Rule(Degradation.degrade, "The picture stays as it is", "copy the picture before you write into it")
    def test_the_picture_stays(self) -> None:
        """Neither the picture is changed, nor a later edit of the result changes it."""
        part = self.build()
        for picture, size in self._asked():
            before = picture.copy()
            made = part.degrade(picture, size, np.random.default_rng(1))
            assert np.array_equal(picture, before), "degrade changes the picture"
            if made.flags.writeable:
                made ^= 255
            assert np.array_equal(picture, before), "the result is a view of the picture"

    @Rule(
        Degradation, "Torch-free", "import numpy, Pillow and the like alone, at the top of the module and within calls"
    )
    def test_imports_no_torch(self) -> None:
        """A process that imports the part, in a module of its own, has no torch."""
        entry, _ = self.entry()
        module = str(entry.component.factory).partition(":")[0]
        if module in sys.modules and sys.modules[module].__spec__ is None:
            return  # made in this process: there is nothing to import
        said = _brings_torch(module)
        assert not said, f"importing {module} {said}"

    def _asked(self) -> Iterator[tuple[Any, tuple[int, int]]]:
        """Pictures of every size and of 1 and 3 channels, with the sizes asked for."""
        factors = self.factors if self._makes == "image" else (1,)
        for index, size in enumerate(self.sizes):
            for channels in (3, 1):
                picture = self.picture(index, size, channels)
                for factor in factors:
                    yield picture.copy(), self.small(picture, factor)


@cache
def _brings_torch(module: str) -> str:
    """Import a module in a process of its own; "" if that process then has no torch, else the misfortune."""
    code = f"import sys; import {module}; sys.exit(3 if 'torch' in sys.modules else 0)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
    said = ended.stderr.decode(errors="replace")[-300:]
    return "" if ended.returncode == 0 else "imports torch" if ended.returncode == 3 else f"fails: {said}"
