"""Scale equivariance: the loss on halved images of halved latents, against closed forms."""

from __future__ import annotations

import pytest
import torch
from ldm_plugin_adversarial.config import AdversarialConfig
from ldm_plugin_adversarial.loss import GeneratorLoss
from ldm_plugin_adversarial.objective import AdversarialObjective
from ldm_plugin_kl_ae.config import KLAEConfig
from ldm_plugin_kl_ae.model import KLFirstStage
from ldm_plugin_vq_ae.config import VQAEConfig
from ldm_plugin_vq_ae.model import VQFirstStage
from test_adversarial_loss import images
from torch import Tensor, nn

from ldm_core.contracts import Reconstruction, Site, StageBatch
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.testing.stages.toys import ToyTraining


class Halving(nn.Module):
    """Pixels times a number are latents; the decoder adds 1: the error of any image is 1, halved or not."""

    regularization_weight = 0.0
    nll_reduction = "sum"

    def __init__(self, factor: float = 2.0, z: bool = True) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.z = z

    @property
    def last_layer(self) -> Tensor:
        return self.factor

    def reconstruct(self, x: Tensor, *, streams: Streams | None) -> Reconstruction:
        z = x * self.factor
        return Reconstruction(self.decode(z), x.new_zeros(()), {}, z if self.z else None)

    def decode(self, z: Tensor) -> Tensor:
        return z / 2 + 1


def halving(stage: nn.Module, weight: float) -> GeneratorLoss:
    loss = GeneratorLoss(stage)
    loss.equivariance_weight = weight
    return loss


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_halved_images_count_as_much_as_whole_ones(reduction: str) -> None:
    """An error of 1 everywhere: 1.25 times the plain loss at a weight of 0.25, for both ways to sum."""
    stage, x = Halving(), images()
    stage.nll_reduction = reduction
    plain = GeneratorLoss(stage)(x, 0)
    both = halving(stage, 0.25)(x, 0)
    torch.testing.assert_close(both.value, 1.25 * plain.value)
    torch.testing.assert_close(both.logs["equivariance"], both.logs["nll"])


def test_detail_that_images_lack_costs_in_latents() -> None:
    """Both losses move the encoder. With latents f x the gradient by f is the sum of sign(error) x / 2 an image, halved
    pixels four times."""
    stage, x = Halving(3.0), images()
    halving(stage, 1.0)(x, 0).value.backward()
    found = stage.factor.grad
    whole, halved = ((x, 1.0), (nn.functional.avg_pool2d(x, 2), 4.0))
    by_hand = sum(times * ((0.5 * y + 1).sign() * y / 2).sum() / len(x) for y, times in (whole, halved))
    torch.testing.assert_close(found, by_hand)


def test_a_stage_without_latents_of_its_pass_is_named() -> None:
    with pytest.raises(ConfigError, match=r"first stage Halving gives no Reconstruction\.z; set 0"):
        halving(Halving(z=False), 1.0)(images(), 0)


@pytest.mark.parametrize(
    ("size", "flaw"),
    [
        ((24, 24), ""),
        ((24, 20), "latents of [6, 5] cells cannot be halved"),
        ((25, 24), ""),  # the first stage's own misfit, told by it
    ],
)
def test_what_cannot_be_halved_is_told_before_the_training(size: tuple[int, int], flaw: str) -> None:
    stage = KLAEConfig(channels=8, channel_mult=(1, 1, 1), norm_groups=2)
    config = AdversarialConfig(adversarial=False, equivariance_weight=0.5, codebook_start=5)
    found = list(config.misfits(stage, Site(size=size), 10))
    assert (flaw in found[0] and len(found) == 1) if flaw else not found


def test_a_codebook_that_begins_later_is_refused() -> None:
    site = Site(size=(16, 16))
    vq = VQFirstStage(VQAEConfig(channels=8, channel_mult=(1, 1), norm_groups=2, mid_attention=False), site)
    config = AdversarialConfig(adversarial=False, equivariance_weight=0.5, codebook_start=5)
    with pytest.raises(ConfigError, match=r"quantised, from the first batch on; set stage_objective\.codebook_start=0"):
        AdversarialObjective(config, site).prepare(vq, ToyTraining(images()))


def test_a_stage_that_goes_on_decodes_its_raw_latents() -> None:
    """Latents of a pass are raw: a normalisation that came with the weights is taken back, to be measured anew."""
    site = Site(size=(16, 16))
    config = KLAEConfig(channels=8, channel_mult=(1, 1), norm_groups=2, mid_attention=False)
    stage = KLFirstStage(config, site)
    stage.set_normalization(torch.full((4,), 0.5), torch.full((4,), 3.0))
    objective = AdversarialObjective(AdversarialConfig(adversarial=False, equivariance_weight=1.0), site)
    objective.prepare(stage, ToyTraining(images()))
    x = images()[:, :, :16, :16]
    made = objective.loss(stage, StageBatch(x, 0, lambda _: Streams([1, 2])))
    assert made.reconstruction is not None and made.reconstruction.z is not None
    z = made.reconstruction.z
    torch.testing.assert_close(stage.decode(z), stage.reconstruct(x, streams=Streams([1, 2])).image)
