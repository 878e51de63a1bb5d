"""A degradation: every nth pixel of the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldm_contract_plugin.optional.config import DrizzleConfig
from ldm_core.contracts import Degradation, Site


class Drizzle(Degradation):
    """Takes one pixel out of each cell, the same of all cells, at a drawn place in it."""

    def __init__(self, config: DrizzleConfig, site: Site) -> None:
        self.config = config

    def degrade(
        self, picture: NDArray[np.uint8], size: tuple[int, int], random: np.random.Generator
    ) -> NDArray[np.uint8]:
        """See the contract."""
        tall, wide = picture.shape[1] // size[0], picture.shape[2] // size[1]
        down, right = random.integers(tall), random.integers(wide)
        return picture[:, down::tall, right::wide].copy()
