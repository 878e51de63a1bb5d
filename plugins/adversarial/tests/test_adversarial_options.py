"""What the adversarial loss can do beyond the papers' formulas: R1, a learned log-variance, one weight for several
micro-batches; against closed forms and plain autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from ldm_plugin_adversarial.discriminator import PatchDiscriminator
from ldm_plugin_adversarial.loss import (
    Balance,
    DiscriminatorLoss,
    GeneratorLoss,
    adaptive_weight,
    hinge_d_loss,
    r1_penalty,
)
from test_adversarial_loss import ToyPerceptual, ToyStage, gradients, images, networks
from torch import Tensor, nn

from ldm_core.contracts.streams import Streams


class Linear(nn.Module):
    """One logit an image: a weighted sum of its pixels, squared or not."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)))
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum((1, 2, 3)).pow(self.power).view(-1, 1, 1, 1)


def pictures(batch: int = 3) -> Tensor:
    return torch.randn((batch, 3, 4, 4), generator=torch.Generator().manual_seed(1))


def test_r1_of_one_logit_is_its_closed_form() -> None:
    """D = (w.x)^2 has the gradient 2 (w.x) w: the penalty is the mean of 4 (w.x)^2 |w|^2, and its own gradient by w
    is the mean of 8 (w.x) |w|^2 x + 8 (w.x)^2 w."""
    disc, x = Linear(2), pictures()
    penalty = r1_penalty(disc, x, Streams([1, 2, 3]))
    w = disc.weight.detach().double()
    dots = (x.double() * w).sum((1, 2, 3))
    assert penalty.item() == pytest.approx(float((4 * dots.square() * w.square().sum()).mean()), rel=1e-5)
    penalty.backward()
    scale = dots.view(-1, 1, 1, 1)
    by_hand = (8 * scale * w.square().sum() * x.double() + 8 * scale.square() * w).mean(0)
    assert disc.weight.grad is not None
    torch.testing.assert_close(disc.weight.grad.double(), by_hand, rtol=1e-4, atol=1e-3)


def test_r1_of_patches_is_the_mean_over_patches_on_average() -> None:
    """Over many draws of the signs it is the mean squared gradient of single logits, which overlap here."""
    torch.manual_seed(0)
    disc = nn.Conv2d(3, 1, 3, padding=1)
    x = pictures(1)
    logits = disc(x.requires_grad_()).flatten()
    each = [float(torch.autograd.grad(v, x, retain_graph=True)[0].square().sum()) for v in logits]
    found = r1_penalty(disc, x.expand(400, -1, -1, -1), Streams(range(400))).item()
    assert found == pytest.approx(sum(each) / len(each), rel=0.1)


def test_the_penalty_is_lazy_and_counts_for_the_steps_that_it_leaves_out() -> None:
    torch.manual_seed(0)
    disc = PatchDiscriminator(width=8, layers=1, norm="group")
    real, fake = images(0), images(1)
    loss = DiscriminatorLoss(disc, disc_start=2, r1_weight=10.0, r1_every=4)
    assert [s for s in range(12) if loss.penalized(s)] == [2, 6, 10]
    expected = hinge_d_loss(disc(real), disc(fake))
    torch.testing.assert_close(loss(real, fake, 3).value, expected)
    out = loss(real, fake, 6, Streams([5, 6]))
    penalty = r1_penalty(disc, real, Streams([5, 6]))
    torch.testing.assert_close(out.value, expected + 0.5 * 10.0 * 4 * penalty)
    torch.testing.assert_close(out.logs["r1"], penalty.detach())
    out.value.backward()
    assert len(gradients(disc)) == len(list(disc.parameters()))
    with pytest.raises(ValueError, match="batch 6 has the R1 penalty, which needs random streams"):
        loss(real, fake, 6)


def test_the_penalty_of_an_image_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    disc = PatchDiscriminator(width=8, layers=2, norm="group")
    x = images(0, batch=4)
    alone = [r1_penalty(disc, x[i : i + 1], Streams([i])) for i in range(4)]
    torch.testing.assert_close(r1_penalty(disc, x, Streams(range(4))), torch.stack(alone).mean(), rtol=1e-4, atol=0)


def test_under_autocast_the_penalty_is_that_of_float32() -> None:
    torch.manual_seed(0)
    disc = PatchDiscriminator(width=8, layers=1, norm="group")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = r1_penalty(disc, images(), Streams([1, 2]))
    assert torch.equal(low, r1_penalty(disc, images(), Streams([1, 2])))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("start", [0, 9])
def test_the_log_variance_enters_as_published(reduction: str, start: int) -> None:
    """nll = rec / exp(s) + s, and its gradient by s; before and after the discriminator's start."""
    stage, disc = networks(reduction)
    loss = GeneratorLoss(stage, disc, ToyPerceptual(), disc_start=start, log_variance=True)
    variance = loss.log_variance
    assert variance is not None and variance.shape == (1,) and variance.item() == 0.0
    with torch.no_grad():
        variance.fill_(0.3)
    x = images()
    out = loss(x, 1)
    image = stage.reconstruct(x, streams=None).image.detach()
    errors = (x - image).abs() + ToyPerceptual()(x, image)
    s = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    rows = errors.double() / s.exp() + s
    nll = rows.sum() / 2 if reduction == "sum" else rows.mean()
    assert out.logs["nll"].item() == pytest.approx(nll.item(), rel=1e-5)
    assert out.logs["log_variance"].item() == pytest.approx(0.3)
    nll.backward()
    out.value.backward()
    assert variance.grad is not None and s.grad is not None
    assert variance.grad.item() == pytest.approx(s.grad.item(), rel=1e-4)
    assert "log_variance" in dict(loss.named_parameters()) and "log_variance" not in dict(stage.named_parameters())


def test_the_best_log_variance_is_the_log_of_the_error() -> None:
    """There nll is 1 + log of the mean error, and its gradient by s is 0."""
    loss = GeneratorLoss(ToyStage(), log_variance=True)
    variance = loss.log_variance
    assert variance is not None
    error = loss(images(), 0).logs["pixel"]
    with torch.no_grad():
        variance.copy_(error.log().view(1))
    out = loss(images(), 0)
    assert out.logs["nll"].item() == pytest.approx(1.0 + float(error.log()), rel=1e-5)
    (gradient,) = torch.autograd.grad(out.value, variance)
    assert gradient.item() == pytest.approx(0.0, abs=1e-6)


def test_micro_batches_with_one_weight_are_the_whole_batch() -> None:
    stage, disc = networks()
    x, seeds = images(batch=4), [1, 2, 3, 4]
    whole = GeneratorLoss(stage, disc, ToyPerceptual(), disc_start=0, log_variance=True)
    parts = copy.deepcopy(whole)
    parts._discriminator = (disc,)
    expected = whole(x, 0, Streams(seeds))
    expected.value.backward()

    halves = [(x[i : i + 2], seeds[i : i + 2]) for i in (0, 2)]
    pairs = [parts.compare(half, Streams(s)) for half, s in halves]
    assert not any(p.grad is not None for p in (*parts.parameters(), *disc.parameters()))
    assert all(p.requires_grad for p in parts.parameters())
    weight = adaptive_weight(*torch.stack([last for _, last in pairs]).mean(0))
    torch.testing.assert_close(weight, expected.logs["adaptive_weight"], rtol=1e-5, atol=0)
    values = []
    for (half, s), (comparison, _) in zip(halves, pairs, strict=True):
        out = parts(half, 0, Streams(s), Balance(comparison, weight))
        (out.value / 2).backward()
        values.append(out.value.detach())
    torch.testing.assert_close(torch.stack(values).mean(), expected.value.detach())
    ours, theirs = gradients(parts), gradients(whole)
    assert ours.keys() == theirs.keys() and len(ours) == 5
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))
