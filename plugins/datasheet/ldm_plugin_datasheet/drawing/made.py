"""Inputs made by the degradations of a recipe, for a sheet: a picture with its hole, a small version.

Imports torch where there are any, for their seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np

from ldm_core.catalog import Catalog
from ldm_core.contracts import Dataset
from ldm_core.data.geometry import fit
from ldm_core.data.images import to_channels, to_picture
from ldm_core.data.inputs.masks import holes
from ldm_core.errors import LDMError
from ldm_core.recipe.keys import Plain
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve
from ldm_core.weights.convert import finder
from ldm_plugin_datasheet.drawing.picks import Panel

if TYPE_CHECKING:
    from ldm_core.model.degraded import Degraded

_HOLE = (235, 60, 150)  # a colour of few photographs


@attrs.frozen(eq=False)
class Made:
    """The inputs that a recipe makes of the pictures of a data set, as a run of it does of held-out ones."""

    recipe: Recipe
    degraded: Degraded

    @classmethod
    def of(cls, plain: Plain, catalog: Catalog, dataset: Dataset) -> Made | None:
        """None if nothing is made, or the recipe does not resolve, which is told elsewhere."""
        try:
            recipe = resolve(plain, catalog, find=finder(catalog))
            if not recipe.made:
                return None
            from ldm_core.model.degraded import Degraded

            every = Degraded.of(recipe, catalog)
        except LDMError:
            return None
        some = None if every is None else every.beside(dataset.keys, recipe.reads)
        return None if some is None else cls(recipe, some)

    def panels(self, image: object, index: int) -> Iterator[Panel]:
        """Draw what is made of the picture of the example at `index`, fitted to the recipe's size before."""
        from ldm_core.model.degraded import for_conditioners

        recipe = self.recipe
        picture = fit({"image": image}, {"image": "image"}, recipe.image_size, recipe.data.fit)["image"]
        picture = to_channels(np.asarray(picture), recipe.image_channels)
        made = self.degraded.made({"image": picture}, self.degraded.seed(index))
        for key, value in for_conditioners(made).items():
            shown = value if value.ndim == 3 else np.where(holes(value), np.array(_HOLE)[:, None, None], picture)
            yield Panel(f"made {key}", picture=to_picture(to_channels(shown.astype(np.uint8), 3)))
