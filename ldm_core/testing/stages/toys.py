"""A small first stage, and a training of one process, for objectives to be tried with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import attrs
import torch
from torch import Tensor, nn

from ldm_core.contracts import LatentSpec, Reconstruction
from ldm_core.contracts.streams import Streams

T = TypeVar("T")
STEPS = 12
"""Steps of the training that the objective is told of."""


@attrs.frozen
class ToyStageConfig:
    """The config of :class:`ToyStage`."""

    latent: LatentSpec = attrs.field(factory=lambda: LatentSpec(3, (4, 4)))


class OnlyAPass(nn.Module):
    """A Gaussian autoencoder of two convolutions, with the one name that every objective may ask for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(channels, 6, 4, stride=4)
        self.decoder = nn.ConvTranspose2d(3, channels, 4, stride=4)

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        """Images (B, c, H, W) -> the image of a draw, and the divergence from N(0, I) of an example."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean
        if streams is not None:
            z = mean + (0.5 * log_variance).exp() * streams.normal(tuple(mean.shape)).to(mean)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()
        return Reconstruction(self.decoder(z), divergence, {"kl": divergence.detach()}, z)


class ToyStage(OnlyAPass):
    """The same, with every optional name of a stage without a codebook, and the way back of a :class:`FirstStage`."""

    latent = LatentSpec(3, (4, 4))
    nll_reduction = "sum"
    regularization_weight = 0.01

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self._normalization = (torch.zeros(3), torch.ones(3))

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (B, 3, h, w) -> images (B, c, H, W)."""
        mean, std = (each.to(z).view(1, -1, 1, 1) for each in self._normalization)
        return self.decoder(z * std + mean)

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Take the mean and std (3,) of raw latents."""
        self._normalization = (mean, std)

    @property
    def last_layer(self) -> Tensor:
        """The decoder's weight."""
        return self.decoder.weight

    @property
    def encoder_layer(self) -> Tensor:
        """The encoder's weight."""
        return self.encoder.weight


class ToyTraining:
    """A training of one process on a CPU, for :meth:`StageObjectiveAnswers.prepare`."""

    steps = STEPS
    seed = 5
    device = torch.device("cpu")
    processes = 1
    stage_config: object = ToyStageConfig()

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def average(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def sum(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def gather(self, value: T) -> list[T]:
        """The value of the one process."""
        return [value]

    def first_images(self, count: int) -> Iterable[Tensor]:
        """One block."""
        return [self._images[:count]]

    def rewritten(self, module: nn.Module, rows: Tensor | None = None) -> None:
        """Nothing else holds the parameters."""

    def taken(self, prefix: str) -> bool:
        """Nothing was there before."""
        return False

    def say(self, text: str, level: str = "info") -> None:
        """Nobody listens."""
