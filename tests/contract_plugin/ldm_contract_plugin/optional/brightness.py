"""A metric: the Fréchet distance of two normal distributions of brightness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_contract_plugin.optional.config import BrightnessConfig
from ldm_core.contracts import Metric, Pictures, Rows, Site
from ldm_core.errors import DataError


class Brightness(Metric):
    """(m - m')² + (s - s')² for means m and deviations s of the pictures' mean levels in [0, 1]; the closed form of
    Dowson & Landau 1982 in one dimension."""

    source = "mean level of all channels, in [0, 1]"
    least = 2

    def __init__(self, config: BrightnessConfig, site: Site) -> None:
        self.config = config

    def measure(self, pictures: Pictures) -> dict[str, NDArray[np.float64]]:
        """One level a picture."""
        return {"level": pictures.images.double().mean(dim=(1, 2, 3)).div(255).cpu().numpy()}

    def sums(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """The number of pictures, the sum and the sum of squares of their levels."""
        level = rows["level"]
        return {"count": np.array(len(level)), "sum": level.sum(), "squares": np.square(level).sum()}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The distance, by name."""
        assert against is not None
        (mean, deviation), (other_mean, other) = _moments(own), _moments(against)
        return {"brightness": (mean - other_mean) ** 2 + (deviation - other) ** 2}


def _moments(sums: Rows) -> tuple[float, float]:
    count = int(sums["count"])
    if count < 2:
        raise DataError(f"brightness needs 2 pictures on either side, and here are {count}; give more")
    if not np.isfinite(sums["sum"]):
        raise DataError("brightness: a level is not finite; measure the pictures again")
    mean = float(sums["sum"]) / count
    return mean, float(np.sqrt(max(float(sums["squares"]) / count - mean**2, 0.0)))
