"""The suite of auxiliary losses: right ones pass, and each mistake in one fails its test with the contract's line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from planted import Empty, Mistake, assert_found, faults_of, mistakes
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import AuxiliaryLoss, Reconstruction, Site
from ldm_core.testing import AuxiliaryLossSuite


class Right(nn.Module, AuxiliaryLoss):
    """A learned map of z to the colours of the images, cell by cell."""

    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.stride = site.latent.stride
        self.to_colours = nn.Conv2d(site.latent.channels, site.channels, 1)

    def loss(self, images: Tensor, z: Tensor, reconstruction: Reconstruction) -> Tensor:
        return self.reduced(self.distance(images, self.latents(z)))

    def latents(self, z: Tensor) -> Tensor:
        return z

    def distance(self, images: Tensor, z: Tensor) -> Tensor:
        return (self.to_colours(z) - F.avg_pool2d(images, self.stride)).square()

    def reduced(self, distance: Tensor) -> Tensor:
        return distance.mean()


class OfTheImage(AuxiliaryLoss):
    """No module, and of the image alone: the distance of slopes."""

    def __init__(self, config: Empty, site: Site) -> None:
        pass

    def loss(self, images: Tensor, z: Tensor, reconstruction: Reconstruction) -> Tensor:
        return (reconstruction.image.diff(dim=-1) - images.diff(dim=-1)).abs().mean()


class OfEach(Right):
    def reduced(self, distance: Tensor) -> Tensor:
        return distance.flatten(1).mean(1)


class SpreadOverTheBatch(Right):
    """The spread over a batch is NaN of one image."""

    def reduced(self, distance: Tensor) -> Tensor:
        each = distance.flatten(1).mean(1)
        return (each - each.mean()).square().sum() / (len(each) - 1)


class ANumber(Right):
    def reduced(self, distance: Tensor) -> Any:
        return distance.mean().item()


class InDouble(Right):
    def reduced(self, distance: Tensor) -> Tensor:
        return distance.double().mean()


class Detaches(Right):
    def latents(self, z: Tensor) -> Tensor:
        return z.detach()


class WithoutAGraph(Right):
    @torch.no_grad()
    def distance(self, images: Tensor, z: Tensor) -> Tensor:
        return super().distance(images, z)


class RootOfNothing(Right):
    """The root's slope at 0 is infinite."""

    def latents(self, z: Tensor) -> Tensor:
        return z + (z - z).abs().sqrt()


class IdleParameter(Right):
    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.idle = nn.Parameter(torch.zeros(1))


class FrozenNetwork(Right):
    """Registers the network that it compares with."""

    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.fixed = nn.Conv2d(3, 3, 1).requires_grad_(False)


class InPlace(Right):
    def latents(self, z: Tensor) -> Tensor:
        return z.mul_(1 / math.sqrt(2)) if not z.requires_grad else z


class DrawsByItself(Right):
    def latents(self, z: Tensor) -> Tensor:
        return z + 0.01 * torch.randn_like(z)


class DropsOut(Right):
    def latents(self, z: Tensor) -> Tensor:
        return F.dropout(z, 0.1, self.training)


class Seeds(Right):
    """A generator of its own, seeded by its place in memory."""

    def latents(self, z: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(id(self) % 2**31)
        return z + 0.01 * torch.randn(z.shape, generator=generator).to(z) if self.training else z


class KeepsItsTable(Right):
    """A table of numbers that no state dict holds."""

    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.table = torch.randn(4, 1, 1)

    def latents(self, z: Tensor) -> Tensor:
        return z + self.table.to(z)


class PlacesItsWeights(Right):
    def latents(self, z: Tensor) -> Tensor:
        return z * torch.linspace(0.5, 1.5, z.shape[-1])


class Counts(Right):
    mean: Tensor

    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.register_buffer("mean", torch.zeros(()))

    def reduced(self, distance: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * distance.detach().mean()
        return distance.mean() / (1 + self.mean)


class SwitchesMode(Right):
    def latents(self, z: Tensor) -> Tensor:
        self.to_colours.eval()
        return z


@pytest.mark.parametrize("loss", [Right, OfTheImage])
def test_a_right_loss_has_no_faults(loss: type) -> None:
    assert faults_of(AuxiliaryLossSuite, loss) == {}


@mistakes(
    Mistake(OfEach, "test_the_loss_is_one_number", "the loss has shape (1,), not ()"),
    Mistake(SpreadOverTheBatch, "test_the_loss_is_one_number", "the loss of 1 images of (32, 32) is not finite"),
    Mistake(ANumber, "test_the_loss_is_one_number", "loss gives float, not a tensor"),
    Mistake(InDouble, "test_the_loss_is_one_number", "the loss is torch.float64, not torch.float32"),
    Mistake(Detaches, "test_gradients_reach_the_pass_and_its_own_parameters", "reaches neither z nor the image"),
    Mistake(WithoutAGraph, "test_gradients_reach_the_pass_and_its_own_parameters", "reaches neither z nor the image"),
    Mistake(RootOfNothing, "test_gradients_reach_the_pass_and_its_own_parameters", "of the pass is not finite"),
    Mistake(IdleParameter, "test_gradients_reach_the_pass_and_its_own_parameters", "does not reach idle of the loss"),
    Mistake(FrozenNetwork, "test_gradients_are_not_forced_off", "the component froze fixed.weight"),
    Mistake(InPlace, "test_inputs_stay_unchanged", "changed its inputs in place"),
    Mistake(DrawsByItself, "test_leaves_the_global_generators_alone", "the global generator of torch"),
    Mistake(DrawsByItself, "test_repeats_itself", "two calls in eval mode differ in loss"),
    Mistake(DropsOut, "test_draws_nothing_in_training", "in training, the loss draws from a global generator"),
    Mistake(Seeds, "test_draws_nothing_in_training", "equal arguments and weights gave another loss"),
    Mistake(KeepsItsTable, "test_state_round_trip", "a fresh component differs in loss"),
    Mistake(PlacesItsWeights, "test_picks_no_device", "torch's mul got a tensor of the default device"),
    Mistake(Counts, "test_repeats_itself", "differ in loss"),
    Mistake(SwitchesMode, "test_modes_are_the_cores", "a call switched train or eval mode"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(AuxiliaryLossSuite, mistake)
