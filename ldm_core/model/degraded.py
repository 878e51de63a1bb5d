"""Pictures spoilt for a model's conditioners by the recipe's degradations: a small version, a mask."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import attrs
import numpy as np

from ldm_core.catalog import Catalog
from ldm_core.contracts import Degradation, LatentSpec, Site
from ldm_core.contracts.configs import ConditionerConfig, DegradationConfig, of
from ldm_core.contracts.streams import mix_seed
from ldm_core.model.conformance.breaches import Named, breach, inside, named, shown
from ldm_core.model.parts import make
from ldm_core.recipe.recipe import ConditionerPart, Recipe

SPOILT = "spoilt image"
"""A batch's key of spoilt pictures; conditioners find them as ``image``, and the run's own are beside them."""


def for_conditioners(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch or an example as conditioners are handed it: the spoilt picture, if there is one, is its ``image``."""
    if SPOILT not in batch:
        return batch
    return {**{key: value for key, value in batch.items() if key != SPOILT}, "image": batch[SPOILT]}


@attrs.frozen
class _Maker:
    """A degradation and its conditioner."""

    part: Degradation
    named: Named
    conditioner: ConditionerPart
    latent: LatentSpec
    makes: str

    @property
    def key(self) -> str:
        return self.conditioner.made

    def __call__(self, picture: np.ndarray, seed: int) -> np.ndarray:
        height, width = picture.shape[1:]
        size = (height, width)
        if self.makes == "image":
            taken = of(ConditionerConfig, self.conditioner.config).taken_sizes(size, self.latent)
            size = taken.get(self.key, size)
        random = np.random.default_rng(mix_seed(self.conditioner.name, seed))
        with inside(self.named, "degrade"):
            made = self.part.degrade(picture, size, random)
        wanted = (len(picture), *size) if self.makes == "image" else (height, width)
        if not isinstance(made, np.ndarray) or made.shape != wanted or made.dtype != np.uint8:
            raise breach(self.named, "degrade", f"made {shown(made)} of a picture of {height}x{width}",
                         f"uint8 {wanted}: its config makes '{self.makes}'")  # fmt: skip
        return made


class Degraded:
    """The recipe's degradations. Keys of the data stay as they are, but for the picture ``image`` itself."""

    def __init__(self, makers: tuple[_Maker, ...], seed: int) -> None:
        self._makers, self._seed = makers, seed

    @classmethod
    def of(cls, recipe: Recipe, catalog: Catalog) -> Degraded | None:
        """Build the degradations of `recipe`; None without one."""
        latent = recipe.first_stage.config.latent
        site = Site(size=recipe.image_size, channels=recipe.image_channels, latent=latent)
        makers = tuple(
            _Maker(
                make(spoils, site, catalog),
                named(spoils, catalog),
                part,
                latent,
                of(DegradationConfig, spoils.config).makes,
            )
            for part in recipe.conditioners
            if (spoils := part.degradation) is not None and part.made
        )
        return cls(makers, recipe.seed) if makers else None

    def beside(self, offered: Container[str], wanted: Container[str]) -> Degraded | None:
        """Choose the ones for `wanted` keys that data with the keys `offered` lacks; None if there is none."""
        left = tuple(m for m in self._makers if m.key in wanted and (m.key == "image" or m.key not in offered))
        return Degraded(left, self._seed) if left else None

    @property
    def keys(self) -> dict[str, str]:
        """The keys in batches, and the geometry of each."""
        return {_stored(m.key): "image" if m.makes == "image" else "map" for m in self._makers}

    def seed(self, *place: int) -> int:
        """The seed of an example in training, by epoch and index, or of a measured picture, by its index alone and
        whatever the run's seed."""
        return mix_seed("degradation", *((self._seed, *place) if len(place) > 1 else place))

    def made(self, example: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Spoil the picture ``image`` of `example`, uint8 (c, H, W): the results, functions of it and of `seed`
        alone, by their keys in batches."""
        return {_stored(each.key): each(example["image"], seed) for each in self._makers}


def _stored(key: str) -> str:
    return SPOILT if key == "image" else key
