"""The peak signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Pictures, Site
from ldm_plugin_metrics.means import MeanMetric
from ldm_plugin_metrics.pairs.config import PSNRConfig
from ldm_plugin_metrics.pairs.pairs import pair

LARGEST = 100.0
"""The dB of a picture equal to its original: a mean of infinities tells nothing."""


class PSNR(MeanMetric):
    """10 log10(255² / MSE) of 8-bit pictures, averaged over pictures, each at most 100 dB."""

    name = "psnr"
    source = "PSNR of 8-bit pictures, at most 100 dB"

    def __init__(self, config: PSNRConfig, site: Site) -> None:
        self.config = config

    def measure(self, pictures: Pictures) -> dict[str, NDArray[np.float64]]:
        """One number a picture."""
        images, originals = pair(pictures, self.name)
        error = (images.double() - originals.double()).square().mean(dim=(1, 2, 3)).cpu().numpy()
        with np.errstate(divide="ignore"):
            return {"psnr": np.minimum(10 * np.log10(255**2 / error), LARGEST)}
