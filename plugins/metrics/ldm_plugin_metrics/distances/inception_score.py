"""The Inception score (Salimans et al. 2016, arXiv 1606.03498, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Rows, Site
from ldm_plugin_metrics.distances.base import FeatureMetric, blocks, by_content
from ldm_plugin_metrics.distances.config import InceptionScoreConfig


class InceptionScore(FeatureMetric):
    """exp of the mean over pictures of KL(p(y|x) || p(y)), averaged over parts of the set.

    The parts are drawn from the rows in the order of their contents, so that no order of the pictures matters, by
    numpy's RandomState, as torch-fidelity draws them.
    """

    name, official = "Inception score", "Inception score"

    def __init__(self, config: InceptionScoreConfig, site: Site) -> None:
        super().__init__(config, site, output="logits")
        self.splits, self.seed = config.splits, config.split_seed
        self.least = self.splits

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The score, from 1 to the number of classes."""
        logits = self.features(own)
        count = len(logits)
        order = by_content(logits)[np.random.RandomState(self.seed).permutation(count)]
        part = np.empty(count, np.intp)
        edges = [number * count // self.splits for number in range(self.splits + 1)]
        for number, (start, end) in enumerate(pairwise(edges)):
            part[order[start:end]] = number
        return {"inception_score": float(np.mean(self._scores(logits, part, np.diff(edges))))}

    def _scores(
        self, logits: NDArray[np.float32], part: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """exp(E Σ p log p - Σ q log q) of each part, with q the mean of p."""
        means, information = np.zeros((self.splits, self.width)), np.zeros(self.splits)
        start = 0
        for block in blocks(logits):
            here = part[start : start + len(block)]
            logs = block - block.max(1, keepdims=True)
            logs -= np.log(np.exp(logs).sum(1, keepdims=True))
            shares = np.exp(logs)
            np.add.at(information, here, (shares * logs).sum(1))
            np.add.at(means, here, shares)
            start += len(block)
        means /= sizes[:, None]
        floor = np.finfo(np.float64).tiny
        scores: NDArray[np.float64] = np.exp(information / sizes - (means * np.log(np.maximum(means, floor))).sum(1))
        return scores
