"""The peak signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Metric, Pictures, Rows, Site
from ldm_core.errors import DataError
from ldm_plugin_metrics.pairs.config import PSNRConfig

LARGEST = 100.0
"""The dB of a picture that equals its original: a mean of infinities tells nothing."""


class PSNR(Metric):
    """10 log10(255² / MSE) of 8-bit pictures, averaged over pictures, each at most 100 dB."""

    source = "PSNR of 8-bit pictures, at most 100 dB"
    least = 1

    def __init__(self, config: PSNRConfig, site: Site) -> None:
        self.config = config

    def measure(self, pictures: Pictures) -> dict[str, NDArray[np.float64]]:
        """One number a picture."""
        if pictures.originals is None:
            raise DataError(
                "psnr compares reconstructions with their originals; evaluate a model, or two folders of pairs"
            )
        error = (pictures.images.double() - pictures.originals.double()).square().mean(dim=(1, 2, 3)).cpu().numpy()
        with np.errstate(divide="ignore"):
            return {"psnr": np.minimum(10 * np.log10(255**2 / error), LARGEST)}

    def sums(self, rows: Rows) -> dict[str, Any]:
        """The number of pictures and the sum."""
        return {"count": np.array(len(rows["psnr"])), "psnr": np.asarray(rows["psnr"], np.float64).sum()}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The mean."""
        if not int(own["count"]):
            raise DataError("psnr needs 1 picture, and here are 0")
        if not np.isfinite(own["psnr"]):
            raise DataError("psnr: a row is not finite; measure the pictures again")
        return {"psnr": float(own["psnr"]) / int(own["count"])}
