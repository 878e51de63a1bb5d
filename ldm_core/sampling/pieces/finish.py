"""The last steps on finished pictures: sharpness, coarse colours, and known pixels over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ldm_core.data import known_pixels
from ldm_core.data.colours import back_projected, sharpened, wavelet_fixed
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.pieces.enlarged import Enlarger
from ldm_core.sampling.pieces.membrane import seamless

_FIXED = {"wavelet": wavelet_fixed, "back_projection": back_projected}
"""The ways of ``sample.colour_fix``."""


def finished(
    recipe: Recipe, parts: Mapping[str, object], rows: Sequence[Mapping[str, object]], pictures: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """`pictures` (B, c, H, W), of the inputs `rows`, as the recipe wants them finished, and entries of their metadata.

    `parts` may know pixels of the pictures.
    """
    about, enlarger = known_pixels.described(parts), Enlarger.of(recipe)
    way, amount = recipe.sample.colour_fix, recipe.sample.sharpen
    if amount:
        pictures = np.stack([sharpened(one, amount) for one in pictures])
        about["sharpen"] = f"{amount:g}"
    if enlarger is not None and way in _FIXED:
        givens = (np.asarray(row[enlarger.key]) for row in rows)
        pairs = [(one, given) for one, given in zip(pictures, givens, strict=True) if given.dtype == np.uint8]
        if len(pairs) == len(pictures):  # other arrays are no picture with colours
            pictures = np.stack([_FIXED[way](one, given) for one, given in pairs])
            about["colour_fix"] = way
    settings, join = recipe.sample, None
    if known_pixels.KEY in about and (settings.seams == "poisson" or (settings.seams is None and not settings.feather)):
        join, about[known_pixels.SEAMS] = seamless, "poisson"
    return known_pixels.pasted(parts, rows, pictures, settings.feather, join), about
