"""Shares of pictures within balls around pictures of another set, by a network's features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Rows, Site
from ldm_plugin_metrics.distances.base import FeatureMetric, blocks
from ldm_plugin_metrics.distances.config import DensityCoverageConfig, PrecisionRecallConfig


class Neighbours(FeatureMetric):
    """A metric with balls around pictures, each to the k-th nearest other picture of its set."""

    def __init__(self, config: PrecisionRecallConfig | DensityCoverageConfig, site: Site) -> None:
        super().__init__(config, site)
        self.neighbours = config.neighbours
        self.least = self.neighbours + 1


class PrecisionRecall(Neighbours):
    """Precision, the share of own pictures within a ball of the other set, and recall, the share of the other's within
    an own ball (Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 to 3), the surface counted in."""

    name = "Precision and recall"

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """Both, from 0 to 1."""
        a, b = self.features(own), self.features(against)
        precise, _ = hits(a, b, radii(b, self.neighbours), surface=True)
        recalled, _ = hits(b, a, radii(a, self.neighbours), surface=True)
        return {"precision": float((precise > 0).mean()), "recall": float((recalled > 0).mean())}


class DensityCoverage(Neighbours):
    """Density, the number of the other set's balls around an own picture over k, and coverage, the share of those balls
    with an own picture in them (Naeem et al. 2020, arXiv 2002.09797, equations 2 and 3), the surface left out."""

    name = "Density and coverage"

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """Density, about 1 for equal sets, and coverage, from 0 to 1."""
        a, b = self.features(own), self.features(against)
        points, balls = hits(a, b, radii(b, self.neighbours), surface=False)
        return {"density": float(points.mean() / self.neighbours), "coverage": float((balls > 0).mean())}


def radii(rows: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """The squared distance of each row to its k-th nearest other row, (N,), a block of distances at a time."""
    found = []
    for x in blocks(rows):
        near = np.empty((len(x), 0))
        for y in blocks(rows):
            near = np.concatenate([near, _squared(x, y)], 1)
            if near.shape[1] > k + 1:
                near = np.partition(near, k, axis=1)[:, : k + 1]
        found.append(near.max(1))  # the nearest of the k + 1 is the row itself
    return np.concatenate(found)


def hits(
    points: NDArray[np.float32], centres: NDArray[np.float32], squares: NDArray[np.float64], *, surface: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The number of balls around each point, and of points in each ball, with squared radii `squares`."""
    around, inside = np.zeros(len(points), np.intp), np.zeros(len(centres), np.intp)
    row = 0
    for x in blocks(points):
        column = 0
        for y in blocks(centres):
            distance, reach = _squared(x, y), squares[column : column + len(y)]
            hit = distance <= reach if surface else distance < reach
            around[row : row + len(x)] += hit.sum(1)
            inside[column : column + len(y)] += hit.sum(0)
            column += len(y)
        row += len(x)
    return around, inside


def _squared(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.einsum("nd,nd->n", y, y) - 2 * (x @ y.T)
    distance += np.einsum("nd,nd->n", x, x)[:, None]
    return np.maximum(distance, 0, out=distance)
