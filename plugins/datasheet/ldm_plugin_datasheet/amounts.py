"""The draw of the examples for a look: the same ones for the same seed and data."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray


@attrs.frozen
class Amounts:
    """The most examples of each look; `pixels`: those of all decoded pictures together; `fewest` are decoded
    whatever their size."""

    values: int
    headers: int
    pictures: int
    maps: int
    pixels: int = 80_000_000
    fewest: int = 8


LOCAL = Amounts(values=10_000, headers=2_000, pictures=256, maps=128)
"""Files of this machine."""
REMOTE = Amounts(values=500, headers=256, pictures=64, maps=48)
"""Files elsewhere, with a request for each look."""
MADE = Amounts(values=1_000, headers=256, pictures=256, maps=128)
"""Examples of unknown cost."""
EVERYTHING = Amounts(*[2**62] * 5)


@attrs.frozen(kw_only=True)
class Wanted:
    """The way to look: amounts, the seed of the draw, the image size (h, w) of a run with its rule and recipe."""

    amounts: Amounts
    seed: int = 0
    size: tuple[int, int] | None = None
    rule: str = "crop"
    recipe: str = ""


def places(count: int, of: int, seed: int) -> NDArray[np.int64]:
    """`count` distinct indices below `of`, drawn by `seed`; the first few of them are a smaller draw. All of them, in
    order, if `count` is not below `of`."""
    if count >= of:
        return np.arange(of)
    return np.random.default_rng(seed).choice(of, count, replace=False)
