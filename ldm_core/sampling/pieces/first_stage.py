"""The first stage of a trained model by itself: pictures to latents and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage
from ldm_core.errors import NotFiniteError
from ldm_core.model.conformance.breaches import inside, named
from ldm_core.model.conformance.first_stage import hold_pictures
from ldm_core.model.diffusion import Model
from ldm_core.model.tiles.tiling import Tiling
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling.image_to_image import encoded, unfitted
from ldm_core.sampling.run import decoded, reconstruct


class StageMethods:
    """The methods of a pipeline that need its first stage alone."""

    recipe: Recipe
    stage: FirstStage
    model: Model
    catalog: Catalog

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    def encode(self, images: Any, *, batch: int = 16) -> Tensor:
        """Pictures -> latents (B, C, *s), float32, on the model's device; the mode, normalised.

        `images` are one or several of one size, PIL or uint8 (c, H, W): not fitted, so that the first stage's factor
        must divide the size (ValueError naming both).
        """
        found = unfitted(images, self.recipe.image_channels)
        return encoded(found, self.stage, self.model.device, batch, Tiling.of(self.recipe.sample))

    def decode(self, latents: Any, *, batch: int = 16) -> np.ndarray:
        """Latents (B, C, *s), or one image's (C, *s) -> uint8 pictures (B, c, H, W), as :meth:`sample` makes them.

        Pictures above ``sample.tile`` squared are decoded in pieces, within ``sample.tile_memory`` MiB or about it:
        ``pipeline.with_settings({"sample": {"tile": 512}})``. So are they by :meth:`encode` and :meth:`reconstruct`.
        NotFiniteError for those with NaN or infinity.
        """
        z = torch.as_tensor(latents, dtype=torch.float32, device=self.device)
        axes = 1 + len(self.recipe.first_stage.config.latent.stride)
        made = []
        for part in (z[None] if z.dim() == axes else z).split(batch):
            shown, fine = decoded(
                self.as_images, part, self.model.runs_in("first_stage"), levels=self.recipe.sample.levels
            )
            if not fine.all():
                raise NotFiniteError(f"latents: the first stage makes NaN of {int((~fine).sum())} of them")
            made.append(shown.numpy())
        return np.concatenate(made)

    def reconstruct(self, images: np.ndarray, *, batch: int = 16) -> np.ndarray:
        """Take uint8 images (B, c, H, W) through the first stage and back, uint8, same shape.

        Raises ValueError with both numbers for a size that the stage's factor does not divide.
        """
        return reconstruct(self.stage, images, self.model.device, batch, Tiling.of(self.recipe.sample))

    def as_images(self, z: Tensor) -> Tensor:
        """Latents (B, C, *s) -> images (B, c, H, W) in [-1, 1], held to the first stage's contract."""
        part = named(self.recipe.first_stage, self.catalog)
        with inside(part, "decode"):
            images = Tiling.of(self.recipe.sample).decode(self.stage, z)
        hold_pictures(part, images, z, self.recipe.first_stage.config.latent, self.recipe.image_channels)
        return images
