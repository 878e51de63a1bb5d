"""One vector for each ``shapes`` scene, as another model might have made it beforehand. Needs numpy only."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ldm_core.builtin.shapes.scenes import CLASS_NAMES, PLAIN, TEXTURES, Scene

WIDTH = 768
"""Length of a vector: that of the CLIP vectors that published models are steered by."""
_BACKGROUNDS = (*PLAIN, "gradient", *TEXTURES)
_FACTS = 3 * len(CLASS_NAMES) + len(_BACKGROUNDS)


def embedding(scene: Scene) -> NDArray[np.float32]:
    """(768,) of length 1: classes, places and background, spread over all numbers by fixed signs. It says all of a
    scene but sizes and shades, and a linear map gets it back.

    It says all of a scene but sizes and shades, and a linear map gets it back.
    """
    facts = np.zeros(_FACTS)
    for thing in scene.things:
        start = 3 * thing.class_index
        facts[start : start + 3] = 1.0, 2 * thing.x - 1, 2 * thing.y - 1
    facts[3 * len(CLASS_NAMES) + _BACKGROUNDS.index(scene.background)] = 0.5
    spread = facts @ _signs()
    return np.asarray(spread / np.linalg.norm(spread), dtype=np.float32)


@cache
def _signs() -> NDArray[np.float64]:
    """(facts, 768) of 1 and -1, the same on every machine."""
    words = np.random.Philox(np.random.SeedSequence(768)).random_raw(_FACTS * WIDTH // 64)
    bits = (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    return np.asarray(bits.reshape(_FACTS, WIDTH).astype(np.float64) * 2 - 1)
