"""The adversarial loss against closed forms and against a straightforward implementation of the papers'
formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from ldm_plugin_adversarial.discriminator import PatchDiscriminator
from ldm_plugin_adversarial.loss import (
    DiscriminatorLoss,
    GeneratorLoss,
    adaptive_weight,
    frozen,
    hinge_d_loss,
    vanilla_d_loss,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Reconstruction
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError


class ToyStage(nn.Module):
    """A blurring autoencoder with noise in the middle and a penalty on its latents."""

    regularization_weight = 0.25

    def __init__(self, nll_reduction: str = "mean") -> None:
        super().__init__()
        self.nll_reduction = nll_reduction
        self.encoder = nn.Conv2d(3, 8, 4, stride=2, padding=1)
        self.decoder = nn.Sequential(nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1))
        self.calls = 0

    @property
    def last_layer(self) -> Tensor:
        layer = self.decoder[2]
        assert isinstance(layer, nn.Conv2d)
        return layer.weight

    def reconstruct(self, x: Tensor, *, streams: Streams | None) -> Reconstruction:
        self.calls += 1
        z = self.encoder(x)
        if streams is not None:
            z = z + 0.1 * streams.normal(z.shape).to(z.dtype)
        return Reconstruction(self.decoder(z), z.square().mean(), {"latent_std": z.detach().std()})


class ToyPerceptual(nn.Module):
    """Differences of local means, (B, 1, 1, 1): a stand-in for LPIPS that needs no network."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (F.avg_pool2d(x, 8) - F.avg_pool2d(y, 8)).square().mean((1, 2, 3), keepdim=True)


def images(seed: int = 0, batch: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand((batch, 3, 24, 24), generator=g) * 2 - 1


def networks(nll_reduction: str = "mean") -> tuple[ToyStage, PatchDiscriminator]:
    torch.manual_seed(0)
    return ToyStage(nll_reduction), PatchDiscriminator(width=8, layers=2, norm="group")


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def test_discriminator_losses_at_zero_logits() -> None:
    zero = torch.zeros(2, 1, 3, 3)
    assert hinge_d_loss(zero, zero).item() == pytest.approx(1.0)
    assert vanilla_d_loss(zero, zero).item() == pytest.approx(math.log(2.0))


def test_discriminator_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    # real: 0, 0.5, 2; fake: 0, 1, 2
    assert hinge_d_loss(real, fake).item() == pytest.approx(0.5 * (2.5 / 3 + 3.0 / 3))
    expected = -0.5 * (F.logsigmoid(real).mean() + F.logsigmoid(-fake).mean())
    assert vanilla_d_loss(real, fake).item() == pytest.approx(expected.item())


def test_adaptive_weight_of_a_linear_last_layer() -> None:
    """x̂ = w h with w = (1, 2), h = 3: d|x̂ - x|/dw = sign · 3, and g = -a · x̂ has gradient -3a."""
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    out = w * 3.0
    nll = (out - torch.tensor([5.0, 1.0])).abs().sum()
    g = -(torch.tensor([0.3, 0.4]) * out).sum()
    (a,), (b,) = torch.autograd.grad(nll, w, retain_graph=True), torch.autograd.grad(g, w)
    # norms: 3 sqrt(2) and 3 · 0.5
    assert adaptive_weight(a, b).item() == pytest.approx(3 * math.sqrt(2) / (1.5 + 1e-4), rel=1e-6)


def test_adaptive_weight_is_limited_and_detached() -> None:
    big, zero = torch.ones(4, requires_grad=True), torch.zeros(4)
    assert adaptive_weight(big, zero).item() == 1e4
    assert adaptive_weight(zero, big).item() == 0.0
    assert not adaptive_weight(big, big).requires_grad
    assert adaptive_weight(big, zero, limit=7.0).item() == 7.0


def test_adaptive_weight_averages_gradients_before_the_norms() -> None:
    nll, gan = (
        [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])],
        [torch.ones(2), torch.tensor([1.0, -1.0])],
    )

    def reduce(_: Tensor) -> Tensor:
        return torch.stack([torch.stack(pair) for pair in zip(nll, gan, strict=True)]).mean(0)

    # averages: (1.5, 2) of norm 2.5 and (1, 0) of norm 1
    expected = 2.5 / (1.0 + 1e-4)
    assert adaptive_weight(nll[0], gan[0], reduce=reduce).item() == pytest.approx(expected, rel=1e-6)


def reference(
    stage: ToyStage, disc: nn.Module, x: Tensor, streams: Streams, pixel: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Total loss and adaptive weight, written out as published: one graph, two extra walks through it."""
    out = stage.reconstruct(x, streams=streams)
    rec = pixel(x - out.image) + 0.7 * ToyPerceptual()(x, out.image) * torch.ones_like(x)
    nll = rec.sum() / x.shape[0] if stage.nll_reduction == "sum" else rec.mean()
    g = -disc(out.image).mean()
    nll_grad = torch.autograd.grad(nll, stage.last_layer, retain_graph=True)[0]
    g_grad = torch.autograd.grad(g, stage.last_layer, retain_graph=True)[0]
    weight = (nll_grad.norm() / (g_grad.norm() + 1e-4)).clamp(0.0, 1e4).detach()
    return nll + 0.25 * out.regularization + 0.8 * weight * g, weight


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("pixel_loss", ["l1", "l2"])
def test_value_and_gradient_equal_the_published_formulas(reduction: str, pixel_loss: str) -> None:
    stage, disc = networks(reduction)
    loss = GeneratorLoss(
        stage,
        disc,
        ToyPerceptual(),
        perceptual_weight=0.7,
        pixel_loss=pixel_loss,  # type: ignore[arg-type]
        disc_weight=0.8,
        disc_start=10,
    )
    x = images()
    plain = copy.deepcopy(stage)
    out = loss(x, 10, Streams([3, 4]))
    out.value.backward()
    pixel = Tensor.abs if pixel_loss == "l1" else Tensor.square
    total, weight = reference(plain, disc, x, Streams([3, 4]), pixel)
    total.backward()

    torch.testing.assert_close(out.value, total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.logs["adaptive_weight"], weight, rtol=1e-5, atol=0)
    ours, theirs = gradients(stage), gradients(plain)
    assert len(ours) == len(theirs) == 4
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize(("reduction", "count"), [("sum", 3 * 24 * 24), ("mean", 1)])
def test_perceptual_distance_counts_once_per_pixel_and_channel(reduction: str, count: int) -> None:
    stage, _ = networks(reduction)
    distances = torch.tensor([0.5, 1.5]).view(2, 1, 1, 1)

    class Constant(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return distances

    x = images()
    without = GeneratorLoss(stage)(x, 0).logs
    added = GeneratorLoss(stage, perceptual=Constant(), perceptual_weight=2.0)(x, 0).logs
    assert added["perceptual"].item() == pytest.approx(1.0)
    # the batch's mean distance is 1, its weight 2
    assert (added["nll"] - without["nll"]).item() == pytest.approx(2.0 * count, rel=1e-5)
    assert without["nll"].item() == pytest.approx(without["pixel"].item() * count, rel=1e-5)


def test_discriminator_gets_no_gradient_and_is_trainable_afterwards() -> None:
    stage, disc = networks()
    disc.main[0].bias.requires_grad_(False)  # type: ignore[union-attr]
    GeneratorLoss(stage, disc, disc_start=0)(images(), 0).value.backward()
    assert gradients(disc) == {}
    off = [n for n, p in disc.named_parameters() if not p.requires_grad]
    assert off == ["main.0.bias"]
    assert len(gradients(stage)) == 4


def test_frozen_restores_after_an_error() -> None:
    _, disc = networks()
    with pytest.raises(RuntimeError, match="inside"), frozen(disc):
        assert not any(p.requires_grad for p in disc.parameters())
        raise RuntimeError("inside")
    assert all(p.requires_grad for p in disc.parameters())


def test_borrowed_modules_are_not_registered() -> None:
    stage, disc = networks()
    loss = GeneratorLoss(stage, disc, nn.Linear(2, 2))
    assert {n.split(".")[0] for n, _ in loss.named_parameters()} == {"first_stage"}
    assert {n.split(".")[0] for n in loss.state_dict()} == {"first_stage"}
    assert all(n.startswith("discriminator.main.") for n in DiscriminatorLoss(disc).state_dict())


def test_before_the_start_neither_network_looks_at_the_discriminator() -> None:
    stage, disc = networks()
    calls: list[int] = []
    disc.register_forward_hook(lambda *_: calls.append(1))
    loss, d_loss = GeneratorLoss(stage, disc, disc_start=5), DiscriminatorLoss(disc, disc_start=5)
    assert [loss.adversarial(step) for step in (4, 5)] == [False, True]
    assert [d_loss.active(step) for step in (4, 5)] == [False, True]

    out = loss(images(), 4)
    before = d_loss(images(), images(1), 4)
    assert calls == []
    assert before.value.item() == 0.0
    assert not before.logs
    before.value.backward()
    assert all(p.grad is not None and not p.grad.any() for p in disc.parameters())
    alone = GeneratorLoss(stage)(images(), 4)
    assert torch.equal(out.value, alone.value)
    assert "generator" not in out.logs

    loss(images(), 5)
    d_loss(images(), images(1), 5)
    assert len(calls) == 3


def test_one_pass_of_the_stage_serves_both_parts() -> None:
    stage, disc = networks()
    out = GeneratorLoss(stage, disc, disc_start=0)(images(), 0, Streams([1, 2]))
    assert stage.calls == 1
    assert out.image is not None
    assert not out.image.requires_grad
    torch.testing.assert_close(out.image, stage.reconstruct(images(), streams=Streams([1, 2])).image)


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_discriminator_step(kind: str) -> None:
    stage, disc = networks()
    real = images()
    fake = stage.reconstruct(real, streams=None).image  # still attached
    out = DiscriminatorLoss(disc, kind=kind, disc_start=0)(real, fake, 0)  # type: ignore[arg-type]
    a, b = disc(real), disc(fake.detach())
    expected = (hinge_d_loss if kind == "hinge" else vanilla_d_loss)(a, b)
    torch.testing.assert_close(out.value, expected)
    torch.testing.assert_close(out.logs["real_accuracy"], (a > 0).float().mean())
    torch.testing.assert_close(out.logs["fake_accuracy"], (b < 0).float().mean())
    torch.testing.assert_close(out.logs["real_logit"], a.mean().detach())
    out.value.backward()
    assert gradients(stage) == {}
    assert len(gradients(disc)) == len(list(disc.parameters()))


def test_discriminator_learns_to_tell_and_the_stage_to_fool_it() -> None:
    """Gradients point the right way: D separates two fixed sets; then one step of the stage raises its
    logits."""
    stage, disc = networks()
    d_loss = DiscriminatorLoss(disc, disc_start=0)
    real, fake = images(), stage.reconstruct(images(), streams=None).image.detach()
    optimizer = torch.optim.Adam(disc.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for step in range(30):
        optimizer.zero_grad()
        out = d_loss(real, fake, step)
        out.value.backward()
        optimizer.step()
    assert out.logs["real_accuracy"] > 0.95
    assert out.logs["fake_accuracy"] > 0.95

    class Indifferent(ToyPerceptual):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return 1e-3 * super().forward(x, y)

    loss = GeneratorLoss(stage, disc, Indifferent(), disc_weight=20.0, disc_start=0)
    before = loss(images(), 0)
    before.value.backward()
    with torch.no_grad():
        for p in stage.parameters():
            assert p.grad is not None
            p.sub_(1e-3 * p.grad / p.grad.norm())
    assert loss(images(), 0).logs["generator"] < before.logs["generator"]


def test_reduce_reaches_the_weight() -> None:
    stage, disc = networks()
    seen: list[tuple[int, ...]] = []

    def halve_gan(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x * torch.tensor([1.0, 0.5]).view(-1, 1, 1, 1, 1)

    plain = GeneratorLoss(stage, disc, disc_start=0)(images(), 0).logs["adaptive_weight"]
    halved = GeneratorLoss(stage, disc, disc_start=0, reduce=halve_gan)(images(), 0).logs["adaptive_weight"]
    assert seen == [(2, *stage.last_layer.shape)]  # both gradients in one call
    assert (halved / plain).item() == pytest.approx(2.0, rel=0.05)


def test_without_gradients_the_held_out_loss_is_that_of_reconstruction() -> None:
    stage, disc = networks()
    loss = GeneratorLoss(stage, disc, ToyPerceptual(), disc_start=0).eval()
    with torch.no_grad():
        out = loss(images(), 0)
    expected = out.logs["nll"] + 0.25 * out.logs["regularization"]
    torch.testing.assert_close(out.value, expected)
    assert "generator" not in out.logs


def test_logs_are_detached_scalars_with_the_stages_own() -> None:
    stage, disc = networks()
    out = GeneratorLoss(stage, disc, ToyPerceptual(), disc_start=0)(images(), 0)
    assert set(out.logs) == {
        "loss", "pixel", "perceptual", "nll", "regularization", "latent_std", "generator", "adaptive_weight",
    }  # fmt: skip
    assert all(v.shape == () and not v.requires_grad and v.dtype == torch.float32 for v in out.logs.values())
    terms = out.logs["nll"] + 0.25 * out.logs["regularization"]
    terms = terms + 0.5 * out.logs["adaptive_weight"] * out.logs["generator"]
    torch.testing.assert_close(out.logs["loss"], terms)


@pytest.mark.parametrize("step", [0, 1])
def test_bfloat16_autocast_keeps_losses_in_float32(step: int) -> None:
    stage, disc = networks()
    loss = GeneratorLoss(stage, disc, ToyPerceptual(), disc_start=1)
    full = loss(images(), step).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = loss(images(), step)
        d_out = DiscriminatorLoss(disc, disc_start=1)(images(), out.image, step)
    assert out.value.dtype == d_out.value.dtype == torch.float32
    out.value.backward()
    d_out.value.backward()
    assert all(torch.isfinite(g).all() for g in gradients(loss).values())
    assert out.value.item() == pytest.approx(full.item(), rel=0.05)


def test_networks_in_bfloat16() -> None:
    stage, disc = networks()
    stage.bfloat16()
    disc.bfloat16()
    out = GeneratorLoss(stage, disc, disc_start=0)(images(), 0)
    assert out.value.dtype == torch.float32
    out.value.backward()
    assert all(g.dtype == torch.bfloat16 and torch.isfinite(g).all() for g in gradients(stage).values())
    assert DiscriminatorLoss(disc, disc_start=0)(images(), out.image, 0).value.dtype == torch.float32


def test_wrong_settings_are_refused() -> None:
    stage, disc = networks()
    with pytest.raises(ConfigError, match="Linear cannot be trained by 'adversarial': it has no reconstruct, last"):
        GeneratorLoss(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="'sum' or 'mean', got 'max'"):
        GeneratorLoss(ToyStage("max"))
    with pytest.raises(ConfigError, match="'l1' or 'l2', got 'huber'"):
        GeneratorLoss(stage, pixel_loss="huber")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hinge, vanilla, got 'wgan'"):
        DiscriminatorLoss(disc, kind="wgan")  # type: ignore[arg-type]
