"""One of several masks for each picture."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Degradation, Site
from ldm_plugin_degradations.config import (
    IRREGULAR,
    BoxesConfig,
    HalfConfig,
    MaskMixtureConfig,
    OutpaintingConfig,
)
from ldm_plugin_degradations.masks.irregular import Irregular
from ldm_plugin_degradations.masks.shapes import Boxes, Half, Outpainting


class MaskMixture(Degradation):
    """A maker for each picture, drawn in the shares of the config."""

    def __init__(self, config: MaskMixtureConfig, site: Site) -> None:
        self.config = config
        self._makers: dict[str, Degradation] = {
            **{word.removeprefix("irregular_"): Irregular(each, site) for word, each in IRREGULAR.items()},
            "boxes": Boxes(BoxesConfig(), site),
            "half": Half(HalfConfig(), site),
            "outpainting": Outpainting(OutpaintingConfig(), site),
        }

    def degrade(
        self, picture: NDArray[np.uint8], size: tuple[int, int], random: np.random.Generator
    ) -> NDArray[np.uint8]:
        """See :class:`~ldm_core.contracts.Degradation`: the mask."""
        shares = attrs.asdict(self.config)
        edges = np.cumsum(np.array(list(shares.values())) / sum(shares.values()))
        chosen = int(np.searchsorted(edges, random.random(), side="right"))
        return self._makers[list(shares)[min(chosen, len(shares) - 1)]].degrade(picture, size, random)
