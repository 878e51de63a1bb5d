"""The VQ first stage: its contract, its training pass, its refusals."""

from __future__ import annotations

import pytest
import torch
from ldm_plugin_vq_ae.config import PRESETS, VQAEConfig
from ldm_plugin_vq_ae.model import VQFirstStage

from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts import FirstStage, Site

SMALL = VQAEConfig(
    channels=8,
    channel_mult=(1, 2, 2),
    res_blocks=1,
    mid_attention=False,
    z_channels=2,
    norm_groups=4,
    codebook_size=20,
)


def build(channels: int = 3) -> VQFirstStage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stage = VQFirstStage(SMALL, Site(size=(16, 24), channels=channels)).eval()
        stage.init_codebook(stage.encode_moments(images(8, channels)), seed=0)
    return stage


def images(batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, channels, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_meets_the_contract() -> None:
    stage, x = build(), images()
    assert isinstance(stage, FirstStage)
    moments = stage.encode_moments(x)
    assert moments.shape == (2, 2, 4, 6) and torch.equal(moments, stage.encode_moments(x))
    assert torch.equal(stage.latents(moments), moments)
    assert stage.decode(moments).shape == x.shape
    torch.testing.assert_close(stage.decode(moments[1:]), stage.decode(moments)[1:], atol=1e-5, rtol=0)


def test_decoding_quantises_and_projection_finds_the_codes() -> None:
    stage, x = build(), images()
    moments = stage.encode_moments(x)
    mean, std = moments.mean((0, 2, 3)), moments.std((0, 2, 3))
    picture = stage.decode(stage.latents(moments))
    stage.set_normalization(mean, std)
    z = stage.latents(moments)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(2))
    torch.testing.assert_close(stage.decode(z), picture, atol=1e-5, rtol=0)
    projected = stage.project(z)
    expected = stage.quantize.embedding.weight[stage.indices(moments)].movedim(-1, 1)
    torch.testing.assert_close(stage.denormalized(projected), expected, atol=1e-6, rtol=1e-5)
    assert not torch.equal(projected, z)
    torch.testing.assert_close(stage.project(projected), projected)
    torch.testing.assert_close(stage.decode(projected), stage.decode(z), atol=1e-5, rtol=0)


def test_a_training_pass() -> None:
    stage, x = build().train(), images()
    out = stage.reconstruct(x)
    assert out.image.shape == x.shape and out.regularization.shape == ()
    counts = stage.codebook_usage(stage.indices(stage.encode_moments(x)))
    assert counts.sum() == 2 * 4 * 6
    assert torch.equal(out.logs["codebook_counts"], counts)
    found = stage.diagnostics({"codebook_counts": counts / 2})  # averaged over two micro-batches
    assert found["codebook_used"].item() == pytest.approx((counts > 0).float().mean().item())
    share = counts[counts > 0].double() / counts.sum()
    assert found["perplexity"].item() == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-5)
    ((out.image - x).abs().mean() + stage.regularization_weight * out.regularization).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in stage.parameters())
    assert stage.last_layer is stage.decoder.conv_out.weight
    assert stage.nll_reduction == "mean" and stage.regularization_weight == 1.0


def test_training_lowers_the_error() -> None:
    """Twenty steps on one batch of smooth pictures: the error falls by a third, codebook in the loop."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stage = VQFirstStage(SMALL, Site(size=(16, 24))).train()
    x = torch.nn.functional.interpolate(images()[:, :, ::8, ::8], size=(16, 24), mode="bilinear")
    stage.init_codebook(stage.encode_moments(x).detach(), seed=0)
    optimizer = torch.optim.Adam(stage.parameters(), lr=1e-2)
    errors = []
    for _ in range(20):
        out = stage.reconstruct(x)
        error = (out.image - x).abs().mean()
        optimizer.zero_grad()
        (error + out.regularization).backward()
        optimizer.step()
        errors.append(error.item())
    assert min(errors[-5:]) < 0.67 * errors[0]


def test_revival_through_the_stage() -> None:
    stage = build()
    moments = stage.encode_moments(images(8))
    with torch.no_grad():
        stage.quantize.embedding.weight[10:] = 50.0
    dead = stage.codebook_usage(stage.indices(moments)) == 0
    assert stage.revive(moments, dead, seed=3) == int(dead.sum()) >= 10
    assert (stage.codebook_usage(stage.indices(moments)) == 0).sum() < dead.sum()


def test_grey_images_and_bfloat16() -> None:
    stage, x = build(channels=1), images(channels=1)
    moments = stage.encode_moments(x)
    assert stage.decode(moments).shape == x.shape
    with torch.autocast("cpu", torch.bfloat16):
        low = stage.encode_moments(x)
        picture = stage.decode(moments)
    assert low.dtype == picture.dtype == torch.float32
    torch.testing.assert_close(low, moments, atol=0.05, rtol=0.05)
    torch.testing.assert_close(picture, stage.decode(moments), atol=0.05, rtol=0.05)
    stage.to(torch.bfloat16)
    assert stage.decode(stage.encode_moments(x)).dtype == torch.float32


def test_an_indivisible_size_names_both_numbers() -> None:
    with pytest.raises(ValueError, match="18 is not divisible by the first stage's factor 4"):
        build().encode_moments(torch.zeros(1, 3, 16, 18))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (VQAEConfig(channels=40), "width 40 is not divisible by norm_groups 32"),
        (VQAEConfig(codebook_size=0), "codebook_size: expected a whole number above 0, got 0"),
    ],
)
def test_numbers_that_cannot_work_are_named(config: VQAEConfig, message: str) -> None:
    site = Site(size=(64, 64))
    assert any(message in line for line in config.check(site))
    with pytest.raises(ValueError, match=message):
        VQFirstStage(config, site)


def test_presets_round_trip_through_plain_values() -> None:
    for name, preset in PRESETS.items():
        assert structure(unstructure(preset), VQAEConfig) == preset, name
        assert not list(preset.check(Site(size=(256, 256))))
