"""The suite of decoders: right ones pass, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

import pytest
import torch
from planted import Empty, Mistake, assert_found, faults_of, mistakes
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Decoder, LatentSpec, Site
from ldm_core.testing import DecoderSuite


class Right(nn.Module, Decoder):
    """A colour a cell, and one convolution of the pixels."""

    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.latent = site.latent
        self.colour = nn.Conv2d(site.latent.channels, 8, 1)
        self.sharp = nn.Conv2d(8, site.channels, 3, padding=1)

    def decode(self, z: Tensor) -> Tensor:
        return self.sharp(self.grown(self.colour(z)))

    def grown(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=[float(each) for each in self.latent.stride], mode="nearest")


class InPieces(Right):
    reach = 1

    def decode_in_pieces(self, z: Tensor, memory: int) -> Tensor:
        rows, stride = [], self.latent.stride[0]
        for top in range(0, z.shape[2], 8):
            first = max(top - self.reach, 0)
            made = self.decode(z[:, :, first : top + 8 + self.reach])
            rows.append(made[:, :, (top - first) * stride :][:, :, : 8 * stride])
        return torch.cat(rows, 2)


class Blind(InPieces):
    reach = 0


class OtherLatent(Right):
    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.latent = LatentSpec(self.latent.channels + 1, self.latent.stride)

    def grown(self, x: Tensor) -> Tensor:
        return super().grown(x)


class OneSize(Right):
    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.size = site.size

    def grown(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=tuple(self.size), mode="nearest")


class Levels(Right):
    def decode(self, z: Tensor) -> Tensor:
        return (super().decode(z) + 1) * 127.5


class Detached(Right):
    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z.detach())


class BatchCentred(Right):
    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z - z.mean(0))


@pytest.mark.parametrize("decoder", [Right, InPieces])
def test_right_decoders_pass(decoder: type[Right]) -> None:
    assert faults_of(DecoderSuite, decoder) == {}


@mistakes(
    Mistake(OtherLatent, "test_latent_is_that_of_the_site", "the decoder says"),
    Mistake(OneSize, "test_pictures_have_the_size_of_their_latents", "for (3, 5) cells"),
    Mistake(Levels, "test_pictures_are_on_their_scale", "half of the decoded values are beyond"),
    Mistake(Detached, "test_gradients_pass_to_the_latents", "gradient"),
    Mistake(BatchCentred, "test_an_example_does_not_depend_on_its_batch", "image"),
    Mistake(Blind, "test_pieces_are_the_whole", "is off by"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(DecoderSuite, mistake)
