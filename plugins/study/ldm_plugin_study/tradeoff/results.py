"""The figures of a trade-off study's cells. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.config.structure import unstructure
from ldm_plugin_study.study.quality import Figure


@attrs.frozen(kw_only=True)
class Point:
    """The quality after `trained` steps at `steps` of the sampler."""

    trained: int
    steps: int
    quality: float
    low: float | None = None
    high: float | None = None


@attrs.frozen(kw_only=True)
class CellResult:
    """A cell: the factor of its first stage, its denoiser's parameters, seconds of a training step and of a sampled
    image by the sampler's steps, values of its reconstructions (none for pixels), its points."""

    name: str
    factor: int
    given: str
    """A trained first stage from elsewhere; "": trained here."""
    parameters: int
    step_seconds: float
    images_per_step: int
    image_seconds: Mapping[int, tuple[float, ...]]
    reconstruction: Mapping[str, float]
    points: tuple[Point, ...]

    def rate(self, steps: int) -> float:
        """Images a second at so many steps of the sampler, of the middle round."""
        return 1 / median(self.image_seconds[steps])

    @property
    def training_rate(self) -> float:
        """Images a second of the denoiser's training; 0 if no step was timed."""
        return self.images_per_step / self.step_seconds if self.step_seconds else 0.0

    def minutes(self, point: Point) -> float:
        """The minutes of training before a point."""
        return point.trained * self.step_seconds / 60

    def speed(self, point: Point) -> float:
        """Images a second of a point's sampling."""
        return self.rate(point.steps)

    @property
    def last(self) -> list[Point]:
        """The points after the whole training, by steps."""
        end = max(point.trained for point in self.points)
        return sorted((p for p in self.points if p.trained == end), key=lambda p: p.steps)

    def plain(self) -> dict[str, Any]:
        """Plain values, with rates."""
        points = [
            {**unstructure(p), "minutes": self.minutes(p), "images_per_second": self.rate(p.steps)} for p in self.points
        ]
        own = {k: v for k, v in unstructure(self).items() if k not in ("points", "given")}
        first = {"given": storage.shown(self.given), "training_images_per_second": self.training_rate}
        return {**own, **first, "points": points}


@attrs.frozen(kw_only=True)
class Results:
    """All cells of a study, the figure of quality, the budget in words, the machine."""

    cells: tuple[CellResult, ...]
    figure: Figure
    reconstructed: Mapping[str, bool]
    """The values of reconstructions: True if higher is better."""
    budget: str
    machine: str

    def best(self) -> CellResult:
        """The cell with the best quality after the whole training, at the most steps of the sampler."""
        sign = -1.0 if self.figure.higher else 1.0
        return min(self.cells, key=lambda cell: sign * cell.last[-1].quality)

    def best_reconstruction(self) -> tuple[str, CellResult] | None:
        """The first value of reconstructions, and the best cell by it; None if none was measured."""
        for name, higher in self.reconstructed.items():
            cells = [cell for cell in self.cells if name in cell.reconstruction]
            if cells:
                return name, min(cells, key=lambda cell: (-1.0 if higher else 1.0) * cell.reconstruction[name])
        return None

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "quality": self.figure.plain(),
            "protocol": self.figure.line,
            "budget": self.budget,
            "machine": self.machine,
            "best": self.best().name,
            "cells": [cell.plain() for cell in self.cells],
        }


def names_of(cells: Sequence[CellResult]) -> list[str]:
    """The values of reconstructions, each once."""
    return list(dict.fromkeys(name for cell in cells for name in cell.reconstruction))
