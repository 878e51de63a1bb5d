"""The common part of metrics of a network's features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ldm_core.contracts import Metric, Pictures, Rows, Site
from ldm_core.errors import DataError
from ldm_plugin_metrics.networks.build import build
from ldm_plugin_metrics.networks.config import INCEPTION, WeightsConfig

BLOCK = 1024
"""Rows in memory at once."""


class FeatureMetric(Metric, nn.Module):
    """A metric whose rows are the features of a network."""

    name: str
    """The metric's word in messages, labels and the names of its values."""
    official = ""
    """The same with FID's network and its published weights."""
    fixed = INCEPTION
    """The network of a config that names none."""
    least = 1

    def __init__(self, config: WeightsConfig, site: Site, *, output: str = "") -> None:
        super().__init__()
        self.config = config
        self.network = build(config, self.fixed)
        self.output = output or self.network.main
        self.source = f"{self.network.source}; {self.output}"
        official = self.official if self.network.published else ""
        self.name = official or self.name
        self.label = official or f"{self.name}, {self.network.title}"

    @property
    def width(self) -> int:
        """The number of features."""
        return self.network.widths[self.output]

    def measure(self, pictures: Pictures) -> dict[str, NDArray[np.float32]]:
        """The features (B, width)."""
        return {self.output: self.network.rows(pictures, self.output)}

    def features(self, rows: Rows | None) -> NDArray[np.float32]:
        """The features among rows of one side, (N, width), in a file or not; DataError for too few."""
        if rows is None:
            raise DataError(f"{self.name} compares two sets of pictures; give another set with --against")
        found: NDArray[np.float32] = rows[self.output]
        self.require(len(found), found.shape[-1])
        return found

    def require(self, count: int, width: int, hint: str = "") -> None:
        """DataError for fewer pictures than `least`, or the features of another network."""
        if width != self.width:
            raise DataError(
                f"{self.name}: rows have {width} features, and {self.network.title} has {self.width}; measure both "
                "sets with one network"
            )
        if count < self.least:
            raise DataError(
                f"{self.name} needs {self.least} pictures on either side, and here are {count}; give more{hint}"
            )


def blocks(rows: NDArray[np.float32], size: int = BLOCK) -> Iterator[NDArray[np.float64]]:
    """The rows in float64, `size` at a time; DataError where one is not finite."""
    for start in range(0, len(rows), size):
        block = np.asarray(rows[start : start + size], np.float64)
        if not np.isfinite(block).all():
            raise DataError("a row of features is not finite; measure the pictures again, or take another network")
        yield block


def by_content(rows: NDArray[np.float32]) -> NDArray[np.intp]:
    """An order of the rows that depends on what they hold alone: by their products with a fixed vector."""
    key = np.random.default_rng(0).standard_normal(rows.shape[1])
    return np.argsort(np.concatenate([(block * key).sum(1) for block in blocks(rows)]), kind="stable")
