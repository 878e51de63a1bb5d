"""The degradation of BSRGAN: blurs, resizes, noise and JPEG in an order drawn for each picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldm_core.contracts import Degradation, Site
from ldm_plugin_degradations.config import BsrConfig
from ldm_plugin_degradations.drawing import between
from ldm_plugin_degradations.pictures import blurs, noise
from ldm_plugin_degradations.pictures.plain import require_smaller
from ldm_plugin_degradations.pictures.resampling import Filter, resample, strided

Plane = NDArray[np.float64]
_FILTERS: tuple[Filter, ...] = ("linear", "cubic", "area")


class Bsr(Degradation):
    """The chain of Zhang et al. 2021 (arXiv 2103.14006, section 3.5), with the numbers of latent diffusion's program.

    Seven operations in a drawn order, but the last resize behind the first: two blurs, a resize to any size or a blur
    with every nth pixel, the resize to the size asked for, Gaussian noise, JPEG, and shot noise in the place of the
    published programs' camera, turned off there. JPEG ends it. Their filters of OpenCV are computed here from their
    definitions. Its steps take any factor, whole or not, of 1 or more; the published settings
    are for 4, and the paper's model too.
    """

    def __init__(self, config: BsrConfig, site: Site) -> None:
        self.config = config

    def degrade(
        self, picture: NDArray[np.uint8], size: tuple[int, int], random: np.random.Generator
    ) -> NDArray[np.uint8]:
        """See :class:`~ldm_core.contracts.Degradation`; DataError where `size` is larger than the picture."""
        require_smaller("bsr", picture, size)
        config, plane = self.config, noise.unpacked(np.moveaxis(picture, 0, -1))
        factor = plane.shape[0] / size[0]
        if factor >= 4 and random.random() < config.halved:
            filter: Filter = "bicubic" if random.random() < 0.5 else _one(_FILTERS, random)
            plane = resample(plane, (plane.shape[0] // 2, plane.shape[1] // 2), filter)
            factor /= 2
        for name in _order(random):
            plane = self._step(name, plane, size, factor, random)
        made = noise.compressed_levels(noise.levels(plane), between(config.jpeg, random))
        return np.ascontiguousarray(np.moveaxis(made, -1, 0))

    def _step(
        self, name: str, plane: Plane, size: tuple[int, int], factor: float, random: np.random.Generator
    ) -> Plane:
        config = self.config
        if name.startswith("blur"):
            return plane if int(name[-1]) > config.blurs else blurs.blurred(plane, self._kernel(factor, random))
        if name == "any size":
            return self._any_size(plane, factor, random)
        if name == "size":
            return np.clip(resample(plane, size, _one(_FILTERS, random)), 0, 1)
        if name == "noise":
            return noise.gaussian_noise(plane, between(config.noise, random) / 255, random)
        if name == "photons":
            return noise.shot_noise(plane, random) if random.random() < config.poisson else plane
        if random.random() >= config.compressed:
            return plane
        return noise.compressed(plane, between(config.jpeg, random))

    def _kernel(self, factor: float, random: np.random.Generator) -> Plane:
        """A blur's kernel: a Gaussian, as often long and turned as round."""
        config = self.config
        if random.random() < 0.5:
            side = config.step * between((2, config.longest), random) + 3
            most = (4 + factor) * config.width
            long, across = (max(0.01, most * random.random()) for _ in range(2))
            return blurs.gaussian(side, (long, across), random.random() * np.pi)
        side = config.step * between((2, config.roundest), random) + 3
        deviation = max(0.1, (2 + 0.2 * factor) * config.width * random.random())
        return blurs.gaussian(side, (deviation**2, deviation**2))

    def _any_size(self, plane: Plane, factor: float, random: np.random.Generator) -> Plane:
        height, width = plane.shape[:2]
        if random.random() < self.config.resized:
            scale = random.uniform(1, 2 * factor)
            small = max(1, int(height / scale)), max(1, int(width / scale))
            return np.clip(resample(plane, small, _one(_FILTERS, random)), 0, 1)
        small = max(1, round(height / factor)), max(1, round(width / factor))
        return strided(plane, small, random.uniform(0.1, max(0.1, 0.6 * factor)))


def _order(random: np.random.Generator) -> list[str]:
    """The operations in a drawn order, the resize to the size behind the one to any size."""
    names = ["blur 1", "blur 2", "any size", "size", "noise", "jpeg", "photons"]
    drawn = [names[i] for i in random.permutation(len(names))]
    first, last = sorted((drawn.index("any size"), drawn.index("size")))
    drawn[first], drawn[last] = "any size", "size"
    return drawn


def _one(filters: Sequence[Filter], random: np.random.Generator) -> Filter:
    return filters[int(random.integers(len(filters)))]
