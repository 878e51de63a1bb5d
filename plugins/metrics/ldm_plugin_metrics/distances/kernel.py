"""Distances of two sets by a kernel of their features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Rows, Site
from ldm_plugin_metrics.distances.base import FeatureMetric, blocks, by_content
from ldm_plugin_metrics.distances.config import CMMDConfig, KIDConfig
from ldm_plugin_metrics.networks.config import CLIP

SCALE, WIDTH = 1000, 10
"""CMMD's factor, and the width of its kernel."""


class KernelDistance(FeatureMetric):
    """KID, and the same of other networks under the name ``kd``: the unbiased squared maximum mean discrepancy with the
    kernel (x·y / D + 1)³ (Bińkowski et al., arXiv 1801.01401), averaged over subsets.

    Subsets are drawn without replacement from the rows in the order of their contents, so that no order of the pictures
    matters: own, then the other set's, subset by subset, by numpy's RandomState, as torch-fidelity draws them.
    """

    name, official = "KD", "KID"

    def __init__(self, config: KIDConfig, site: Site) -> None:
        super().__init__(config, site)
        self.subsets, self.size, self.seed = config.subsets, config.subset_size, config.subset_seed
        self.least = self.size if self.subsets else 2

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The mean of the subsets' figures, by name; it may be a little below 0."""
        a, b = self.features(own), self.features(against)
        return {self.name.lower(): self._averaged(a, b) if self.subsets else unbiased(a, b)}

    def _averaged(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        random = np.random.RandomState(self.seed)
        orders = [by_content(a), by_content(b)]
        found = []
        for _ in range(self.subsets):
            picks = [order[random.choice(len(order), self.size, replace=False)] for order in orders]
            found.append(unbiased(*(rows[np.sort(pick)] for rows, pick in zip((a, b), picks, strict=True))))
        return float(np.mean(found))


class CMMD(FeatureMetric):
    """1000 (E k(a, a') + E k(b, b') - 2 E k(a, b)) with k(x, y) = exp(-|x - y|² / 200), of CLIP's embeddings of length
    1 (Jayasumana et al., arXiv 2401.09603): means over all pairs, the diagonals included, as in its authors' code."""

    name = "CMMD"
    fixed = CLIP
    least = 2

    def __init__(self, config: CMMDConfig, site: Site) -> None:
        super().__init__(config, site)

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The distance, from 0."""
        a, b = self.features(own), self.features(against)
        means = [_gaussian(x, y) / (len(x) * len(y)) for x, y in ((a, a), (b, b), (a, b))]
        return {"cmmd": max(SCALE * (means[0] + means[1] - 2 * means[2]), 0.0)}


def unbiased(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The unbiased estimate of the squared discrepancy of two sets, a block of kernel values at a time."""
    n, m = len(a), len(b)
    within = [
        _sum(rows, rows) - sum(float(_kernel(np.einsum("nd,nd->n", x, x), x).sum()) for x in blocks(rows))
        for rows in (a, b)
    ]
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * _sum(a, b) / (n * m)


def _sum(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return sum(float(_kernel(x @ y.T, x).sum()) for x in blocks(a) for y in blocks(b))


def _kernel(products: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = products / x.shape[1] + 1
    return values * values * values


def _gaussian(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    total = 0.0
    for x in blocks(a):
        for y in blocks(b):
            lengths = np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("nd,nd->n", y, y)
            total += float(np.exp((2 * (x @ y.T) - lengths) / (2 * WIDTH**2)).sum())
    return total
