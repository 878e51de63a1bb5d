"""The first stage of a trained model by itself: pictures to latents and back."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from ldm_core.errors import NotFiniteError
from ldm_core.model.arithmetic import allowed_here
from ldm_core.model.conformance.breaches import inside, named
from ldm_core.model.conformance.first_stage import hold_pictures
from ldm_core.model.diffusion import Model
from ldm_core.model.fill import device_named
from ldm_core.model.tiles.tiling import Tiling
from ldm_core.recipe.recipe import AdapterPart
from ldm_core.sampling.image_to_image import encoded, unfitted
from ldm_core.sampling.pieces.decoders import OtherDecoder, load_decoder
from ldm_core.sampling.pieces.runtimes import RuntimeMethods
from ldm_core.sampling.run import decoded, reconstruct


class StageMethods(RuntimeMethods):
    """The methods of a pipeline that need its first stage alone."""

    folder: str = ""
    """The place of the weights, beside which further decoders lie; "" if it is not known."""
    _loaded: tuple[tuple[AdapterPart, ...], Model]
    """The adapters of the recipe that was loaded, and the model with them."""
    _made: object
    """The parts of the latest sampling."""
    _decoders: dict[str, OtherDecoder]
    """Those in use, by the name in the settings; shared by all pipelines of these latents."""

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to a device, and return the pipeline itself; those that `with_settings` and its like made of
        it share the weights. :class:`ConfigError` if the device cannot be used. Not beside a run in another thread."""
        place = device_named(str(device))
        self._computed.clear()
        for module in (self._loaded[1], self.model, self.stage, *(each.module for each in self._decoders.values())):
            cast(nn.Module, module).to(place)
        self._made = None
        return self

    def encode(self, images: Any, *, batch: int = 16) -> Tensor:
        """Pictures -> latents (B, C, *s), float32, on the model's device; the mode, normalised.

        `images` are one or several of one size, PIL or uint8 (c, H, W): not fitted, so that the first stage's factor
        must divide the size (ValueError naming both).
        """
        found = unfitted(images, self.recipe.image_channels)
        return encoded(found, self.computed.stage, self.model.device, batch, Tiling.of(self.recipe.sample))

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

    def reconstruct(self, images: object, *, batch: int = 16) -> np.ndarray:
        """Take pictures through the first stage and back: those that :meth:`encode` takes -> uint8 (B, c, H, W).

        Raises ValueError with both numbers for a size that the stage's factor does not divide.
        """
        found = np.stack(unfitted(images, self.recipe.image_channels))
        return reconstruct(self.computed.stage, found, self.model.device, batch, Tiling.of(self.recipe.sample))

    def as_images(self, z: Tensor) -> Tensor:
        """Latents (B, C, *s) -> images (B, c, H, W) in [-1, 1], held to the contract of the first stage, or of the
        decoder chosen by ``sample.decoder``."""
        return self._decoded_by(self.recipe.sample.decoder, z)

    def preview(self, z: Tensor) -> np.ndarray:
        """Latents (B, C, *s) -> uint8 pictures (B, c, H, W), by ``sample.preview_decoder``; NaN becomes any level."""
        settings = self.recipe.sample
        decode = partial(self._decoded_by, settings.preview_decoder or settings.decoder)
        return decoded(decode, z, self.model.runs_in("first_stage"), levels=settings.levels)[0].numpy()

    def require_decoders(self) -> None:
        """CheckpointError, ConfigError or ComponentError if a decoder of the settings is not there, or does not fit."""
        for name in (self.recipe.sample.decoder, self.recipe.sample.preview_decoder):
            self._decoder(name)

    def decoder_in_words(self) -> dict[str, str]:
        """The entries of a picture's metadata on its decoder; none for the first stage's own."""
        other = self._decoder(self.recipe.sample.decoder)
        return {} if other is None else {"decoder": other.part.use, "decoder_sha256": other.sha256}

    def _decoder(self, name: str) -> OtherDecoder | None:
        """The decoder of that name or place, read at the first call; None for the first stage."""
        if name and name not in self._decoders:
            known = self._site.first_stage
            self._decoders[name] = load_decoder(name, self.folder, self.recipe, known, self.catalog, self.device)
        return self._decoders[name] if name else None

    def _decoded_by(self, name: str, z: Tensor) -> Tensor:
        other = self._decoder(name)
        part = named(self.recipe.first_stage, self.catalog) if other is None else other.part
        among = () if other is None else other.precisions
        with inside(part, "decode"), allowed_here(z.device.type, among) if among else nullcontext():
            images = Tiling.of(self.recipe.sample).decode(self.computed.stage if other is None else other.module, z)
        hold_pictures(part, images, z, self.recipe.first_stage.config.latent, self.recipe.image_channels)
        return images
