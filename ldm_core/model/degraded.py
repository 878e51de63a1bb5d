"""Pictures spoilt for a model's conditioners: a small version, a mask, made of each example by the recipe's parts."""

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
"""The key of a batch with the pictures that conditioners find as ``image``; the run's own are beside it."""


def for_conditioners(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch or an example as conditioners are handed it: the spoilt picture, where there is one, is its ``image``."""
    if SPOILT not in batch:
        return batch
    return {**{key: value for key, value in batch.items() if key != SPOILT}, "image": batch[SPOILT]}


@attrs.frozen
class _Maker:
    """A degradation, with the conditioner that it makes `key` for."""

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
    """The recipe's degradations; data's own keys are left as they are, but for the picture ``image`` itself.

    ``made(example, seed)`` depends on the example's picture and `seed` alone. :meth:`of` gives None for a recipe
    without any, whose examples stay as they are.
    """

    def __init__(self, makers: tuple[_Maker, ...], seed: int) -> None:
        self._makers, self._seed = makers, seed

    @classmethod
    def of(cls, recipe: Recipe, catalog: Catalog) -> Degraded | None:
        """Those of `recipe`, built; None without one."""
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
        """Those that make what is `wanted` and data with the keys `offered` lacks; None if nothing is."""
        left = tuple(m for m in self._makers if m.key in wanted and (m.key == "image" or m.key not in offered))
        return Degraded(left, self._seed) if left else None

    @property
    def keys(self) -> dict[str, str]:
        """The keys that are made, and the geometry of each."""
        return {_stored(m.key): "image" if m.makes == "image" else "map" for m in self._makers}

    def seed(self, *place: int) -> int:
        """The seed of an example in training, by epoch and index, or of a picture of a set that is measured, by its
        index alone and whatever the run's seed."""
        return mix_seed("degradation", *((self._seed, *place) if len(place) > 1 else place))

    def made(self, example: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """What is made of the picture ``image`` of `example`, uint8 (c, H, W), by its key in batches."""
        return {_stored(each.key): each(example["image"], seed) for each in self._makers}


def _stored(key: str) -> str:
    return SPOILT if key == "image" else key
