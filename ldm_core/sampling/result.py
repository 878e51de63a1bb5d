"""A sampled image with its inputs, and the progress of a sampling run. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from ldm_core import storage
from ldm_core.errors import quoted


@attrs.frozen
class Progress:
    """The progress of a sampling run: `step` of `steps` in all its batches; `images` finished of `total`."""

    step: int
    steps: int
    images: int
    total: int
    _shown: Callable[[], np.ndarray] | None = attrs.field(default=None, eq=False, repr=False)

    def pictures(self) -> np.ndarray:
        """Decode the present estimates of the batch's images, uint8 (B, c, H, W), by ``sample.preview_decoder``.

        They are made when they are asked for, and change nothing of the run. ValueError before the first step.
        """
        if self._shown is None:
            raise ValueError("pictures: there is no estimate before the first step of a run")
        return self._shown()


@attrs.frozen(eq=False, repr=False)
class Sampled:
    """One image, uint8 (c, H, W), with its prompt, seed and latents, and the text of its PNG.

    `latents` are x (C, *s), float32, at the end of the run.
    """

    image: np.ndarray
    prompt: str
    seed: int
    metadata: Mapping[str, str]
    latents: np.ndarray | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[-2:]
        return f"Sampled({quoted(self.prompt, 60)}, seed={self.seed}, {height}x{width})"

    def picture(self) -> Any:
        """Make it a ``PIL.Image``."""
        from ldm_core.data.images import to_picture

        return to_picture(self.image)

    def _repr_png_(self) -> bytes:
        """The PNG that a notebook shows; :meth:`save` writes the same bytes."""
        from ldm_core.data.images import png_bytes

        return png_bytes(self.image, self.metadata)

    def save(self, url: str) -> None:
        """Write a PNG with prompt, seed, recipe and the weights' hash in its metadata."""
        storage.atomic_write(url, self._repr_png_())


Callback = Callable[[Progress], "bool | None"]
"""A function of the progress at each step; False cancels the run."""
