"""The cells of a study of guidance: all combinations of its settings. Imports no torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.config.structure import unstructure
from ldm_core.errors import ConfigError, clean

ALWAYS = "always"
"""The interval of a guidance at all levels."""


@attrs.frozen(kw_only=True)
class Cell:
    """One setting of the sampling. `interval`: the noise levels sigma / alpha under guidance, None = all."""

    sampler: str
    steps: int
    scale: float
    interval: tuple[float, float] | None = None

    @property
    def settings(self) -> list[str]:
        """As ``KEY=VALUE`` settings of a sampling, but for the steps."""
        interval = "null" if self.interval is None else f"[{self.interval[0]:g},{self.interval[1]:g}]"
        return [f"sampler={self.sampler}", f"guidance.scale={self.scale:g}", f"guidance.interval={interval}"]

    @property
    def name(self) -> str:
        """A short name, of a folder too."""
        word = "" if self.interval is None else f"-{self.interval[0]:g}to{self.interval[1]:g}"
        return f"{self.sampler}-{self.steps}-scale{self.scale:g}{word}"

    def line(self, run: str) -> str:
        """The command that samples so, to be pasted."""
        words = ["ldm-run", "sample", storage.shown(run), "--sampler", self.sampler, "--steps", str(self.steps)]
        return shlex.join([*words, *self.settings[1:]])


def grid(
    samplers: Sequence[str], steps: Sequence[int], scales: Sequence[float], intervals: Sequence[str]
) -> list[Cell]:
    """All combinations, each once; :class:`ConfigError` for an interval without two levels.

    At scale 1 the estimate is the model's own, within an interval and without: one cell stands for all.
    """
    spans = list(map(interval_of, intervals))
    every = product(samplers, steps, scales, spans)
    cells = (Cell(sampler=a, steps=b, scale=c, interval=None if c == 1 else d) for a, b, c, d in every)
    return list(dict.fromkeys(cells))


def interval_of(text: str) -> tuple[float, float] | None:
    """Read ``0.3,5`` as two noise levels, ``always`` as None."""
    if text == ALWAYS:
        return None
    try:
        low, high = (float(part) for part in text.strip("[] ").split(","))
    except ValueError:
        raise ConfigError(
            f"interval: '{clean(text, 40)}': expected two noise levels such as 0.3,5, or {ALWAYS}"
        ) from None
    if not 0 <= low < high:  # nan too
        raise ConfigError(
            f"interval: '{clean(text, 40)}': expected a lower and then a higher noise level, such as 0.3,5"
        )
    return low, high


def _numbers(texts: Sequence[str], name: str, fix: str) -> list[float]:
    """The numbers between commas, one or more in a text; :class:`ConfigError` with the `fix` for inf, nan and words."""
    if not all(each.strip(", ") for each in texts):
        raise ConfigError(f"{name}: none; {fix}")
    found = []
    for text in (part.strip() for each in texts for part in each.split(",") if part.strip()):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"{name}: '{clean(text, 40)}' is no number; {fix}")
        found.append(number)
    return found


def scales_of(texts: Sequence[str]) -> list[float]:
    """Read ``1,2,4`` as scales."""
    return _numbers(texts, "scales", "give numbers with commas between, such as 1,2.5")


def steps_of(texts: Sequence[str], name: str = "steps") -> list[int]:
    """Read ``5,10,20`` as steps; :class:`ConfigError` with the option's `name` for fractions and numbers below 1."""
    fix = "give whole numbers from 1, such as 5,10"
    found = _numbers(texts, name, fix)
    if wrong := [n for n in found if n < 1 or n != int(n)]:
        raise ConfigError(f"{name}: {wrong[0]:g} is no number of steps; {fix}")
    return list(map(int, found))


@attrs.frozen(kw_only=True)
class Result:
    """A cell's figures: the `quality` by one value of a metric, its bounds with bootstrap, seconds an image."""

    cell: Cell
    quality: float
    low: float | None = None
    high: float | None = None
    seconds: tuple[float, ...]
    """Seconds an image, one a round."""
    images: int
    front: bool = False

    @property
    def time(self) -> float:
        """The middle round's seconds an image."""
        return median(self.seconds)

    def plain(self) -> dict[str, Any]:
        """Plain values with the rate."""
        return {**unstructure(self), "name": self.cell.name, "time": self.time, "images_per_second": 1 / self.time}


def with_front(results: Sequence[Result], *, higher: bool) -> list[Result]:
    """Mark the Pareto front: no other cell is as fast and better, or faster and as good. Sorted by time.

    `higher`: the larger quality is the better one.
    """
    sign = -1.0 if higher else 1.0
    best, out = float("inf"), []
    for result in sorted(results, key=lambda r: (r.time, sign * r.quality)):
        ahead = sign * result.quality < best
        best = min(best, sign * result.quality)
        out.append(attrs.evolve(result, front=ahead))
    return out


def best_within(results: Sequence[Result], seconds: float, *, higher: bool) -> Result | None:
    """The best cell with at most `seconds` an image; None if all take longer."""
    fitting = [r for r in results if r.time <= seconds]
    sign = -1.0 if higher else 1.0
    return min(fitting, key=lambda r: (sign * r.quality, r.time)) if fitting else None
