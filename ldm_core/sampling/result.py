"""A sampled image with what it was made from, and where a sampling run stands. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from ldm_core import storage


@attrs.frozen
class Progress:
    """Where a sampling run stands: `step` of `steps` in all its batches; `images` finished of `total`."""

    step: int
    steps: int
    images: int
    total: int


@attrs.frozen(eq=False)
class Sampled:
    """One image: uint8 (c, H, W), what it was made from, and the text that travels in its PNG.

    `latents`: x (C, *s), float32, where the run ended.
    """

    image: np.ndarray
    prompt: str
    seed: int
    metadata: Mapping[str, str]
    latents: np.ndarray | None = None

    def picture(self) -> Any:
        """As a ``PIL.Image``."""
        from ldm_core.data.images import to_picture

        return to_picture(self.image)

    def save(self, url: str) -> None:
        """Write a PNG that carries prompt, seed, recipe and the weights' hash in its metadata."""
        from ldm_core.data.images import png_bytes

        storage.atomic_write(url, png_bytes(self.image, self.metadata))


Callback = Callable[[Progress], "bool | None"]
"""Told of each step; False cancels the run."""
