"""Distances to the nearest training pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Rows, Site
from ldm_core.errors import DataError
from ldm_plugin_metrics.distances.base import FeatureMetric, blocks
from ldm_plugin_metrics.model.config import NearestConfig

_SAME = 1e-10
"""Squared distances of two rows, relative to their squared lengths, up to here are those of one picture: pixels and
networks in float32 round at 1e-7."""


class Nearest(FeatureMetric):
    """The distance of pictures to their nearest training pictures, and the shares of copies and of originals.

    For a picture with the nearest training picture p at distance d, let r be the distance of p to the nearest training
    picture other than p and its copies. `memorised` is the share of pictures with d at most `threshold` r. `authentic`
    is the share with d above r. Samples of the true distribution have a half or more: in many dimensions most pictures
    have one of a few near the middle for p, whose r is small. `nearest` is the mean of d, and `nearest_training` the
    mean of r.

    The comparison of d with r is that of authenticity in Alaa et al. 2022 (arXiv 2102.08921); a third as
    the threshold is that of Yoon et al. 2023 ("Diffusion Probabilistic Models Generalize when They Fail to Memorize")
    and Gu et al. 2023 (arXiv 2310.02664), who take for r the distance of the picture itself to its second nearest
    training picture. For a copy both are nearly one number, and the one here depends on the training set alone.
    """

    name = "nearest"
    least = 2

    def __init__(self, config: NearestConfig, site: Site) -> None:
        super().__init__(config, site)
        self.threshold = config.threshold

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The two means and the two shares."""
        a, b = self.features(own), self.features(against)
        squares, nearest = _nearest(a, b)
        hit, place = np.unique(nearest, return_inverse=True)
        others, _ = _nearest(b[hit], b, others=True)
        if not np.isfinite(others).all():
            raise DataError(f"{self.name}: the training pictures are all equal, so that no distance among them tells")
        d, r = np.sqrt(squares), np.sqrt(others)[place]
        return {
            "nearest": float(d.mean()),
            "nearest_training": float(r.mean()),
            "memorised": float((d <= self.threshold * r).mean()),
            "authentic": float((d > r).mean()),
        }


def _nearest(
    a: NDArray[np.float32], b: NDArray[np.float32], *, others: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The squared distance of each row of a to the nearest of b (N,), and its index; of `others` rows alone, the
    nearest one that is no copy."""
    best, place = np.full(len(a), np.inf), np.zeros(len(a), np.intp)
    row = 0
    for x in blocks(a):
        column, lengths = 0, np.einsum("nd,nd->n", x, x)[:, None]
        here = slice(row, row + len(x))
        for y in blocks(b):
            both = lengths + np.einsum("nd,nd->n", y, y)
            distance = both - 2 * (x @ y.T)
            distance[distance <= _SAME * both] = np.inf if others else 0.0
            found = distance.argmin(1)
            value = distance[np.arange(len(x)), found]
            better = value < best[here]
            best[here] = np.where(better, value, best[here])
            place[here] = np.where(better, column + found, place[here])
            column += len(y)
        row += len(x)
    return best, place
