"""The KL first stage: its posterior against closed forms, its contract, its refusals."""

from __future__ import annotations

import math

import pytest
import torch
from ldm_plugin_kl_ae.config import PRESETS, KLAEConfig
from ldm_plugin_kl_ae.gaussian import draw, kl_to_standard_normal, split_moments
from ldm_plugin_kl_ae.model import KLFirstStage

from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts import FirstStage, Site
from ldm_core.contracts.streams import Streams

SMALL = KLAEConfig(channels=8, channel_mult=(1, 2, 2), res_blocks=1, attention=(2,), z_channels=2, norm_groups=4)


def build(channels: int = 3) -> KLFirstStage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return KLFirstStage(SMALL, Site(size=(16, 24), channels=channels)).eval()


def images(batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, channels, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_kl_is_torch_distributions() -> None:
    moments = torch.randn(3, 4, 2, 2)
    mean, log_variance = moments.chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(kl_to_standard_normal(moments), expected)
    assert kl_to_standard_normal(torch.zeros(1, 4, 2, 2)).item() == 0.0


def test_log_variances_are_bounded() -> None:
    moments = torch.tensor([1.0, 99.0, 1.0, -99.0]).view(2, 2, 1, 1)
    assert split_moments(moments)[1].flatten().tolist() == [20.0, -30.0]


def test_draws_have_the_posteriors_mean_and_std() -> None:
    mean, std = 0.7, 0.2
    moments = torch.cat([torch.full((1, 1, 100, 100), mean), torch.full((1, 1, 100, 100), 2 * math.log(std))], 1)
    drawn = draw(moments, Streams([5]))
    assert drawn.mean().item() == pytest.approx(mean, abs=4 * std / 100)
    assert drawn.std().item() == pytest.approx(std, rel=0.03)
    assert torch.equal(draw(moments, None), moments[:, :1])


def test_meets_the_contract() -> None:
    stage, x = build(), images()
    assert isinstance(stage, FirstStage)
    moments = stage.encode_moments(x)
    assert moments.shape == (2, 4, 4, 6) and torch.equal(moments, stage.encode_moments(x))
    mode = stage.latents(moments)
    assert mode.shape == (2, *stage.latent.shape((16, 24)))
    first, again = (stage.latents(moments, streams=Streams([3, 4])) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, mode)
    alone = stage.latents(moments[1:], streams=Streams([4]))
    torch.testing.assert_close(first[1:], alone)
    assert stage.decode(mode).shape == x.shape
    assert torch.equal(stage.project(mode), mode)


def test_normalisation_changes_latents_and_not_pictures() -> None:
    stage, x = build(), images()
    moments = stage.encode_moments(x)
    raw, picture = stage.latents(moments), stage.decode(stage.latents(moments))
    stage.set_normalization(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    z = stage.latents(moments)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(2))
    torch.testing.assert_close(stage.decode(z), picture, atol=1e-5, rtol=0)
    other = build()
    other.load_state_dict(stage.state_dict())
    torch.testing.assert_close(other.latents(moments), z)


def test_a_training_pass() -> None:
    stage, x = build().train(), images()
    out = stage.reconstruct(x, streams=Streams([0, 1]))
    assert out.image.shape == x.shape and out.regularization.shape == ()
    torch.testing.assert_close(out.regularization, kl_to_standard_normal(stage.encode_moments(x)).mean())
    assert not out.logs["kl"].requires_grad and out.logs["posterior_std"] > 0
    parts = stage.diagnostics({"kl_channels": out.logs["kl_channels"]})
    assert float(parts["kl_0"] + parts["kl_1"]) == pytest.approx(float(out.logs["kl"]), rel=1e-6)
    assert set(parts) == {"kl_0", "kl_1", "kl_min", "kl_max"}
    assert set(stage.diagnostics({"kl_channels": torch.rand(17)})) == {"kl_min", "kl_max"}
    ((out.image - x).abs().sum() / 2 + stage.regularization_weight * out.regularization).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in stage.parameters())
    assert stage.last_layer is stage.decoder.conv_out.weight
    assert stage.nll_reduction == "sum" and stage.regularization_weight == 1e-6


def test_grey_images_and_bfloat16() -> None:
    stage, x = build(channels=1), images(channels=1)
    reference = stage.decode(stage.latents(stage.encode_moments(x)))
    assert reference.shape == x.shape
    with torch.autocast("cpu", torch.bfloat16):
        low = stage.decode(stage.latents(stage.encode_moments(x)))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, reference, atol=0.05, rtol=0.05)
    stage.to(torch.bfloat16)
    moments = stage.encode_moments(x)
    assert moments.dtype == torch.float32 and stage.decode(stage.latents(moments)).dtype == torch.float32


def test_an_indivisible_size_names_both_numbers() -> None:
    with pytest.raises(ValueError, match="18 is not divisible by the first stage's factor 4"):
        build().encode_moments(torch.zeros(1, 3, 16, 18))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (KLAEConfig(channels=40), "width 40 is not divisible by norm_groups 32"),
        (KLAEConfig(channel_mult=()), "channel_mult: at least one is needed"),
        (KLAEConfig(z_channels=0), "z_channels: expected a whole number above 0, got 0"),
    ],
)
def test_numbers_that_cannot_work_are_named(config: KLAEConfig, message: str) -> None:
    site = Site(size=(64, 64))
    assert any(message in line for line in config.check(site))
    with pytest.raises(ValueError, match=message):
        KLFirstStage(config, site)


def test_presets_round_trip_through_plain_values() -> None:
    for name, preset in PRESETS.items():
        assert structure(unstructure(preset), KLAEConfig) == preset, name
        assert not list(preset.check(Site(size=(256, 256))))
