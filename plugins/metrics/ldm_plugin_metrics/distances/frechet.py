"""Fréchet distances of normal distributions with the features' moments (Dowson & Landau 1982; Heusel et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Rows, Site
from ldm_core.errors import DataError
from ldm_plugin_metrics.distances.base import FeatureMetric, blocks
from ldm_plugin_metrics.distances.config import FDConfig, FIDConfig


class FrechetDistance(FeatureMetric):
    """|m - m'|² + tr(S + S' - 2 (S S')^½), with covariances divided by N - 1.

    A covariance of D features has full rank from D + 1 pictures on. With fewer, the figure grows as pictures get fewer,
    so they are refused unless the config allows few; then 2 are enough.
    """

    name = "FD"

    def __init__(self, config: FDConfig | FIDConfig, site: Site) -> None:
        super().__init__(config, site)
        self.few = config.allow_few
        self.least = 2 if self.few else self.width + 1

    def sums(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """The number of pictures, the sum of their features (D) and that of their outer products (D, D)."""
        features = rows[self.output]
        total, outer = np.zeros(self.width), np.zeros((self.width, self.width))
        if len(features):
            self.require(max(len(features), self.least), features.shape[-1])
        for block in blocks(features):
            total += block.sum(0)
            outer += block.T @ block
        return {"count": np.array(len(features)), "sum": total, "outer": outer}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The distance, by name."""
        if against is None:
            raise DataError(f"{self.name} compares two sets of pictures; give another set with --against")
        return {self.name.lower(): frechet(*self._moments(own), *self._moments(against))}

    def _moments(self, sums: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        hint = (
            ""
            if self.few
            else (
                f" (a covariance of {self.width} features has full rank from {self.least} pictures on; allow_few=true "
                "measures fewer, to a figure that is too large)"
            )
        )
        self.require(int(sums["count"]), len(sums["sum"]), hint)
        return moments(sums)


class FID(FrechetDistance):
    """The distance called FID: with other weights than FID's it is an FD, and called so."""

    official = "FID"


def moments(sums: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (D) and the covariance (D, D) of ``sums``."""
    count, total = int(sums["count"]), np.asarray(sums["sum"])
    mean = total / count
    return mean, (np.asarray(sums["outer"]) - np.outer(mean, total)) / (count - 1)


def frechet(
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
    other_mean: NDArray[np.float64],
    other: NDArray[np.float64],
) -> float:
    """The distance of two normal distributions; 0 where rounding would make it negative."""
    spread = np.trace(covariance) + np.trace(other) - 2 * root_trace(covariance, other)
    return max(float(np.square(mean - other_mean).sum() + spread), 0.0)


def root_trace(covariance: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """tr (S S')^½, as the sum of the roots of the eigenvalues of the symmetric S^½ S' S^½.

    Directions in which S has no spread beyond rounding are left out: the roots of their rounding would add up.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root = vectors[:, kept] * np.sqrt(values[kept])
    inner = np.linalg.eigvalsh(root.T @ other @ root) if root.size else np.zeros(0)
    return float(np.sqrt(np.clip(inner, 0, None)).sum())
