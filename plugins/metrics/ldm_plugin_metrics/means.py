"""Metrics by means over the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ldm_core.contracts import Metric, Rows
from ldm_core.errors import DataError


class MeanMetric(Metric):
    """Each number is the mean of the array of its name, one number a picture, in float64.

    A subclass sets `name`, the first word of messages, and `source`, and measures.
    """

    name: ClassVar[str]
    least = 1

    def sums(self, rows: Rows) -> dict[str, Any]:
        """The number of pictures, and the sum of each array."""
        arrays = {key: np.asarray(value, np.float64) for key, value in rows.items()}
        return {"count": np.array(len(next(iter(arrays.values())))), **{k: v.sum(axis=0) for k, v in arrays.items()}}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The means, by name."""
        return {key: float(value) for key, value in means(self.name, own).items()}


def means(name: str, sums: Rows) -> dict[str, Any]:
    """The mean of each sum of :meth:`MeanMetric.sums`; DataError for no pictures, and for infinite sums."""
    count = int(sums["count"])
    if not count:
        raise DataError(f"{name} needs 1 picture, and here are 0; give some")
    found = {key: value / count for key, value in sums.items() if key != "count"}
    if wrong := [key for key, value in found.items() if not np.isfinite(value).all()]:
        raise DataError(f"{name}: a row of {', '.join(wrong)} is not finite; measure the pictures again")
    return found
