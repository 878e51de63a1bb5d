"""The training of a small decoder: a first stage of a trained encoder and the decoder, and the error of its pixels."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import FirstStage, Reconstruction, Site, StageBatch, StageLoss, StageObjective, TrainableStage
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.model.arithmetic import arithmetic
from ldm_plugin_tiny_decoder import teacher
from ldm_plugin_tiny_decoder.config import DecoderPixelsConfig, TrainedDecoderConfig
from ldm_plugin_tiny_decoder.moments import Moments
from ldm_plugin_tiny_decoder.network import TinyDecoder


def _teacher(config: TrainedDecoderConfig, site: Site) -> Any:
    return teacher.load(teacher.teacher_of(config.stage, config.sha256, config.latent, site), site)


class TrainedDecoder(nn.Module, FirstStage, TrainableStage):
    """The moments and latents of a trained first stage, decoded by the small decoder, the only part trained and saved.

    The trained stage is frozen and outside of this module's state. Its latents are normalised already, so the
    statistics measured after the training are not taken over. `nll_reduction` and `regularization_weight` are what the
    adversarial loss asks for.
    """

    nll_reduction: Literal["sum", "mean"] = "mean"
    regularization_weight = 0.0

    def __init__(self, config: TrainedDecoderConfig, site: Site) -> None:
        super().__init__()
        self.config, self.latent = config, config.latent
        self.decoder = TinyDecoder(config, attrs.evolve(site, latent=config.latent))
        self._teacher: tuple[Any] = (_teacher(config, site),)  # in a tuple, so that nn.Module does not see it
        self._moments = Moments(config.keep)

    def taught_by(self, like: Tensor) -> Any:
        """The trained stage, on the device of `like`."""
        stage = self._teacher[0]
        if (own := next(stage.parameters(), None)) is not None and own.device != like.device:
            stage.to(like.device)
        return stage

    def encode_moments(self, x: Tensor) -> Tensor:
        """The trained stage's."""
        with torch.no_grad():
            moments: Tensor = self.taught_by(x).encode_moments(x)
        return moments

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """The trained stage's."""
        with torch.no_grad():
            z: Tensor = self.taught_by(moments).latents(moments, streams=streams)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures of the small decoder."""
        return self.decoder.decode(z)

    def decode_in_pieces(self, z: Tensor, memory: int) -> Tensor:
        """The small decoder's."""
        return self.decoder.decode_in_pieces(z, memory)

    def project(self, z: Tensor) -> Tensor:
        """The trained stage's."""
        with torch.no_grad():
            projected: Tensor = self.taught_by(z).project(z)
        return projected

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Nothing: the latents stay those of the trained stage."""

    def reconstruct(self, x: Tensor, *, streams: Streams | None) -> Reconstruction:
        """The training pass; there is nothing to regularize."""
        image = self.decode(self.seen(x, streams))
        return Reconstruction(image, image.new_zeros((), dtype=torch.float32))

    def seen(self, x: Tensor, streams: Streams | None) -> Tensor:
        """The latents (B, C, h, w) of pictures (B, c, H, W) for the decoder, float32."""
        with torch.no_grad(), arithmetic(x.device.type, "fp32"):
            moments = torch.cat([self._kept(one) for one in x.split(1)])
            return self.latents(moments, streams=streams if self.config.latents == "drawn" else None)

    def _kept(self, one: Tensor) -> Tensor:
        """Moments (1, M, *s) of one picture, encoded by itself: the same bits whenever and beside whatever it comes."""
        one = one.contiguous()
        key = self._moments.key(one)
        if (known := self._moments.find(key)) is None:
            known = self.encode_moments(one)
            self._moments.keep(key, known)
        return known

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, for objectives with adaptive weights."""
        return self.decoder.last_layer


class DecoderPixels(StageObjective):
    """The mean error of the decoder's pixels, abs(d), d² or Huber's, beside the data's pictures or the trained stage's
    decode of the same latents."""

    def __init__(self, config: DecoderPixelsConfig, site: Site) -> None:
        self.config = config

    def loss(self, stage: TrainableStage, batch: StageBatch) -> StageLoss:
        """The loss of a micro-batch; logs: loss, and pixel, the mean error beside the data's pictures."""
        target = batch.images.float()
        if self.config.target == "pictures":
            image = stage.reconstruct(batch.images, streams=batch.streams("first_stage")).image.float()
        elif not isinstance(stage, TrainedDecoder):
            raise ConfigError("stage_objective.target: 'decode' is for the first stage 'tiny_decoder' alone")
        else:
            z = stage.seen(batch.images, batch.streams("first_stage"))
            image = stage.decode(z).float()
            with torch.no_grad(), arithmetic(z.device.type, "fp32"):
                target = stage.taught_by(z).decode(z).float()
        if self.config.loss == "huber":
            value = F.huber_loss(image, target, delta=self.config.huber_delta)
        else:
            value = (F.l1_loss if self.config.loss == "l1" else F.mse_loss)(image, target)
        pixel = F.l1_loss(image.detach(), batch.images.float())
        return StageLoss(value, {"loss": value.detach(), "pixel": pixel}, image.detach())
