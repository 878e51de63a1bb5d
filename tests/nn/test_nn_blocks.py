"""Shared blocks against closed forms and golden numbers of the published code."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ldm_core.nn.attention import (
    GEGLU,
    AttentionBlock,
    CrossAttention,
    SpatialSelfAttention,
    SpatialTransformer,
    attend,
    qkv_attention_by_head,
    qkv_attention_by_role,
)
from ldm_core.nn.autoencoder import Decoder, Encoder, PaddedDownsample
from ldm_core.nn.autoencoder_config import AutoencoderConfig
from ldm_core.nn.embeddings import timestep_embedding
from ldm_core.nn.latents import NormalizedLatents
from ldm_core.nn.norms import group_norm
from ldm_core.nn.unet_blocks import Downsample, ResBlock, Upsample


def ramp(*shape: int, step: float) -> Tensor:
    return torch.sin(step * torch.arange(math.prod(shape), dtype=torch.float64)).float().view(shape)


def test_timestep_embedding_is_cosines_then_sines() -> None:
    first, later = timestep_embedding(torch.tensor([1, 500]), 8).tolist()
    assert first == pytest.approx([0.540302, 0.995004, 0.999950, 1.0, 0.841471, 0.099833, 0.01, 0.001], abs=1e-6)
    expected = [-0.883849, 0.964965, 0.283662, 0.877583, -0.467772, -0.262379, -0.958924, 0.479426]
    assert later == pytest.approx(expected, abs=2e-5)


def test_timestep_embedding_of_odd_width_ends_in_a_zero() -> None:
    out = timestep_embedding(torch.tensor([0.25, 3.5]), 7)
    assert out.shape == (2, 7) and out.dtype == torch.float32
    assert out[:, 6].tolist() == [0.0, 0.0]
    assert torch.equal(out[:, :6], timestep_embedding(torch.tensor([0.25, 3.5]), 6))


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        (
            qkv_attention_by_head,
            [-0.831515, 0.140915, 0.989604, -0.852569, -0.851670, -0.850885, -0.850221, -0.849683],
        ),
        (
            qkv_attention_by_role,
            [-0.232582, 0.694338, 0.968109, 0.927155, 0.927230, 0.927346, 0.927503, 0.927699],
        ),
    ],
)
def test_golden_fused_attention(attention: object, expected: list[float]) -> None:
    out = attention(ramp(1, 24, 5, step=0.1), 2)  # type: ignore[operator]
    assert out.shape == (1, 8, 5)
    seen = [out.mean(), out.std(unbiased=False), out.abs().max(), *out.flatten()[:5]]
    assert [float(v) for v in seen] == pytest.approx(expected, abs=1e-4)


def test_attention_is_the_softmax_formula_and_the_mask_removes_tokens() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    by_hand = torch.softmax(q.double() @ k.double().transpose(-1, -2) / math.sqrt(8), dim=-1) @ v.double()
    torch.testing.assert_close(attend(q, k, v).double(), by_hand, atol=1e-5, rtol=0)
    layer = CrossAttention(16, 2, context_dim=6)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 7, 6)
    mask = torch.ones(2, 7, dtype=torch.bool)
    torch.testing.assert_close(layer(x, context, mask), layer(x, context))
    mask[:, 4:] = False
    torch.testing.assert_close(layer(x, context, mask), layer(x, context[:, :4]), atol=1e-6, rtol=1e-5)


def test_attention_in_bfloat16_stays_close_to_float32() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 16, 8).unbind(0)
    out = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), attend(q, k, v), atol=0.03, rtol=0)


@pytest.mark.parametrize("limit", [1 << 24, 0], ids=["products of matrices", "fused kernel"])
def test_both_ways_in_bfloat16_have_the_values_and_gradients_of_the_formula(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm_core.nn.attention._PLAIN", limit)
    torch.manual_seed(0)
    inputs = [torch.randn(s).bfloat16() for s in ((2, 4, 16, 8), (2, 4, 9, 8), (2, 4, 9, 8))]
    mask = torch.rand(2, 1, 1, 9) < 0.6
    mask[..., 0] = True
    low = [x.clone().requires_grad_() for x in inputs]
    high = [x.double().requires_grad_() for x in inputs]
    scores = (high[0] @ high[1].transpose(-1, -2) / math.sqrt(8)).masked_fill(~mask, -math.inf)
    by_hand = scores.softmax(-1) @ high[2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(low[0], low[1], low[2], mask)
    direction = torch.randn(out.shape)
    grads = torch.autograd.grad(out, low, direction.bfloat16())
    expected = torch.autograd.grad(by_hand, high, direction.double())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), by_hand, atol=0.03, rtol=0)
    for found, wanted in zip(grads, expected, strict=True):
        assert (found.double() - wanted).norm() / wanted.norm() < 0.02


def test_geglu_gates_the_first_half_by_the_second() -> None:
    layer = GEGLU(3, 2)
    x = torch.randn(4, 3)
    value, gate = (x @ layer.proj.weight.T + layer.proj.bias).split(2, dim=1)
    by_hand = value * gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    torch.testing.assert_close(layer(x), by_hand)


def test_fresh_residual_branches_are_the_identity() -> None:
    x, emb = torch.randn(2, 32, 4, 6), torch.randn(2, 8)
    torch.testing.assert_close(ResBlock(32, 8)(x, emb), x)
    torch.testing.assert_close(AttentionBlock(32, 4)(x), x)
    torch.testing.assert_close(SpatialTransformer(32, 4, context_dim=5)(x, torch.randn(2, 3, 5)), x)


@pytest.mark.parametrize("linear", [False, True])
def test_spatial_transformer_on_rectangles_and_memory_formats(linear: bool) -> None:
    torch.manual_seed(0)
    block = SpatialTransformer(32, 4, context_dim=5, linear_projection=linear)
    torch.nn.init.normal_(block.proj_out.weight, std=0.2)
    x, context = torch.randn(2, 32, 4, 6), torch.randn(2, 3, 5)
    out = block(x, context)
    last = block(x.to(memory_format=torch.channels_last), context)
    assert not torch.equal(out, x)
    assert out.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, out, atol=1e-5, rtol=0)


def test_scale_shift_of_the_embedding() -> None:
    """The first half of the projection scales, the second shifts, both after the norm (§3.5)."""
    block = ResBlock(32, 4, scale_shift_norm=True)
    weights = dict(block.named_parameters())
    torch.nn.init.normal_(weights["out_layers.3.weight"])
    x, emb = torch.randn(1, 32, 4, 4), torch.randn(1, 4)
    h = block.in_layers(x)
    scale, shift = block.emb_layers(emb)[0, :32], block.emb_layers(emb)[0, 32:]
    normed = F.group_norm(h, 32, weights["out_layers.0.weight"], weights["out_layers.0.bias"], eps=1e-5)
    h = F.silu(normed * (1 + scale.view(1, -1, 1, 1)) + shift.view(1, -1, 1, 1))
    torch.testing.assert_close(block(x, emb), x + block.out_layers[3](h))


def test_resampling_places_pixels_as_published() -> None:
    """A delta kernel shows which input pixel each output is centred on."""
    x = torch.arange(36.0).view(1, 1, 6, 6)
    up = Upsample(1)
    symmetric, padded = Downsample(1), PaddedDownsample(1)
    for conv in (up.conv, symmetric.op, padded.conv):
        torch.nn.init.dirac_(conv.weight)
        conv.bias = None
    assert torch.equal(symmetric(x), x[:, :, ::2, ::2])  # padded on all sides: centred on 0, 2, 4
    assert torch.equal(padded(x), x[:, :, 1::2, 1::2])  # padded right and bottom: centred on 1, 3, 5
    assert torch.equal(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(("resample", "size"), [("down", (2, 3)), ("up", (8, 12))])
def test_res_block_resamples_both_branches(resample: str, size: tuple[int, int]) -> None:
    x = torch.randn(1, 32, 4, 6)
    out = ResBlock(32, 8, resample=resample)(x, torch.randn(1, 8))  # type: ignore[arg-type]
    expected = F.avg_pool2d(x, 2) if resample == "down" else F.interpolate(x, size=size, mode="nearest")
    torch.testing.assert_close(out, expected)


def test_spatial_self_attention_mixes_positions_by_the_formula() -> None:
    torch.manual_seed(0)
    block = SpatialSelfAttention(32)
    x = torch.randn(2, 32, 3, 4)
    h = block.norm(x)
    q, k, v = (conv(h).flatten(2) for conv in (block.q, block.k, block.v))  # (B,C,N)
    weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(32), dim=-1)
    by_hand = x + block.proj_out(torch.einsum("bnm,bcm->bcn", weights, v).view_as(x))
    torch.testing.assert_close(block(x), by_hand, atol=1e-5, rtol=1e-5)


def _attentions(module: nn.Module, levels: str) -> list[int]:
    """How many attentions each level has, by key."""
    return [
        sum(key.startswith(f"{levels}.{i}.attn.") and key.endswith(".q.bias") for key in module.state_dict())
        for i in range(3)
    ]


def test_autoencoder_levels_and_grey_images() -> None:
    config = AutoencoderConfig(z_channels=3, channels=8, channel_mult=(1, 2, 4), attention=(2,), norm_groups=4)
    encoder = Encoder(config, out_channels=6, image_channels=1)
    decoder = Decoder(config, image_channels=1)
    assert _attentions(encoder, "down") == [0, 2, 0]
    assert _attentions(decoder, "up") == [0, 3, 0]
    assert encoder(torch.randn(2, 1, 16, 24)).shape == (2, 6, 4, 6)
    assert decoder(torch.randn(2, 3, 4, 6)).shape == (2, 1, 16, 24)


def test_a_patch_is_the_pixels_of_a_cell() -> None:
    """A cell (y, x) of the first level holds the pixels (2y + a, 2x + b)."""
    config = AutoencoderConfig(z_channels=3, channels=8, channel_mult=(1, 2), attention=(4,), norm_groups=4, patch=2)
    assert config.latent.stride == (4, 4)
    encoder, decoder = Encoder(config, out_channels=6), Decoder(config)
    assert [len(level.attn) for level in encoder.down] == [0, 2]  # type: ignore[arg-type]
    assert encoder.conv_in.in_channels == 12 and decoder.conv_out.out_channels == 12
    seen: list[Tensor] = []
    encoder.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = ramp(2, 3, 16, 24, step=0.37)
    assert encoder(x).shape == (2, 6, 4, 6)
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert torch.equal(seen[0][:, 2 * a + b :: 4], x[:, :, a::2, b::2])
    cells: list[Tensor] = []
    decoder.conv_out.register_forward_hook(lambda _, __, out: cells.append(out))
    image = decoder(torch.randn(2, 3, 4, 6))
    assert image.shape == (2, 3, 16, 24)
    assert torch.equal(image[:, :, 1::2, 0::2], cells[0][:, 2::4])


def test_without_attention_a_distant_pixel_has_no_influence() -> None:
    """mid_attention false leaves convolutions and norms only; with it, every pixel reaches every other."""
    for attention, reaches in ((False, False), (True, True)):
        torch.manual_seed(0)
        config = AutoencoderConfig(channels=8, channel_mult=(1,), res_blocks=1, mid_attention=attention, norm_groups=8)
        encoder = Encoder(config, out_channels=2).eval()
        for module in encoder.modules():
            if isinstance(module, nn.GroupNorm):  # norms mix all positions: left out here
                module.register_forward_hook(lambda module, args, output: args[0])
        x = torch.randn(1, 3, 32, 32, requires_grad=True)
        (gradient,) = torch.autograd.grad(encoder(x)[0, 0, 0, 0], x)
        assert bool(gradient[0, :, 31, 31].any()) is reaches


def test_normalized_latents() -> None:
    latents = NormalizedLatents(2)
    raw = torch.randn(3, 2, 4, 4) * torch.tensor([2.0, 0.5]).view(1, 2, 1, 1) + 3
    assert torch.equal(latents.normalized(raw), raw)
    latents.set_normalization(torch.tensor([3.0, 3.0]), torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(latents.normalized(raw)[:, 1], (raw[:, 1] - 3) / 0.5)
    torch.testing.assert_close(latents.denormalized(latents.normalized(raw)), raw)
    assert set(latents.state_dict()) == {"latent_mean", "latent_std"}
    video = torch.randn(1, 2, 3, 4, 4)
    torch.testing.assert_close(latents.denormalized(latents.normalized(video)), video)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0], [1.0], r"2 finite numbers, one a channel; got \(1,\)"),
        ([0.0, math.nan], [1.0, 1.0], "finite"),
        ([0.0, 0.0], [1.0, 0.0], "std of the latents must be above 0"),
    ],
)
def test_a_normalisation_that_cannot_be_used_is_refused(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NormalizedLatents(2).set_normalization(torch.tensor(mean), torch.tensor(std))


@pytest.mark.parametrize(("channels", "side", "taken"), [(64, 8, True), (128, 8, False), (64, 32, False)])
def test_norms_of_few_positions_in_bfloat16_are_made_in_float32(channels: int, side: int, taken: bool) -> None:
    """Channels last, without gradients, for groups of 8 channels: torch's numbers to a rounding, in its layout."""
    torch.manual_seed(0)
    norm = group_norm(channels, 8)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, channels, side, side).bfloat16().to(memory_format=torch.channels_last)
    for given, alone in ((x, taken), (x.contiguous(), False)):
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as ran:
            found = norm(given)
        assert any(event.key == "aten::_to_copy" for event in ran.key_averages()) == alone
        exact = F.group_norm(given.double(), 8, norm.weight.double(), norm.bias.double(), norm.eps)
        assert found.dtype == torch.bfloat16 and found.stride() == given.stride()
        assert bool(((found.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all())
    assert not norm(x.requires_grad_()).isnan().any()
