"""Counted operations against closed forms, and against torch's counter where that one counts everything."""

from __future__ import annotations

import copy

import pytest
import torch
from ldm_plugin_study.bench.gauge.flops import attention, count
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from ldm_core.builtin.unet.config import UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.nn.packed_convolution import pack

B, HEADS, L, S, D = 2, 3, 17, 11, 8


def test_a_convolution_forward_and_backward() -> None:
    layer, x = nn.Conv2d(5, 7, 3, padding=1), torch.randn(B, 5, 6, 4)
    forward = 2 * B * 7 * (6 * 4) * 5 * 3 * 3
    assert count(lambda: layer(x)) == forward
    assert count(lambda: layer(x).sum().backward()) == 2 * forward  # the picture needs no gradient
    x.requires_grad_()
    assert count(lambda: layer(x).sum().backward()) == 3 * forward


def test_convolutions_with_packed_weights() -> None:
    """As many as torch's own, strided and in groups."""
    plain = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, stride=2, groups=4)).bfloat16()
    x = torch.randn(B, 8, 10, 6).bfloat16()
    packed = copy.deepcopy(plain)
    pack(packed)
    with torch.no_grad():
        wanted = 2 * B * (60 * 16 * 8 * 9 + 4 * 2 * 8 * 4 * 9)
        assert count(lambda: packed(x)) == count(lambda: plain(x)) == wanted


def test_a_linear_layer() -> None:
    layer, x = nn.Linear(12, 9), torch.randn(B, L, 12)
    with torch.no_grad():
        assert count(lambda: layer(x)) == 2 * B * L * 12 * 9
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert count(lambda: layer(x)) == 2 * B * L * 12 * 9


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_by_any_kernel(kind: torch.dtype, backend: SDPBackend) -> None:
    """The fused one of a CPU is not in torch's counter; four products of its backward pass are counted, not five."""
    q, k, v = (torch.randn(B, HEADS, n, D, dtype=kind, requires_grad=True) for n in (L, S, S))
    forward = 2 * B * HEADS * L * S * (D + D)
    assert attention(q.shape, k.shape, v.shape) == forward
    with sdpa_kernel(backend):
        with torch.no_grad():
            assert count(lambda: scaled_dot_product_attention(q, k, v)) == forward
        assert count(lambda: scaled_dot_product_attention(q, k, v).sum().backward()) == 3 * forward


def test_a_unet_against_torchs_counter() -> None:
    """Attention without a fused kernel is products, which torch's counter knows: forward and backward are equal."""
    config = UNetConfig(channels=16, channel_mult=(1, 2), res_blocks=1, attention=(1, 2), heads=2, norm_groups=4)
    site = Site(size=(8, 8), latent=LatentSpec(channels=4, stride=(1, 1)), cond=CondSpec(crossattn=12))
    net = UNet(config, site)
    x, t, cond = torch.randn(B, 4, 8, 8), torch.rand(B), Cond(crossattn=torch.randn(B, 5, 12))

    def call() -> None:
        net(x, t, cond).sum().backward()

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as theirs:
        call()
    assert theirs.get_total_flops() > 1e7
    assert count(call) == theirs.get_total_flops()
    with FlopCounterMode(display=False) as theirs:
        call()
    assert theirs.get_total_flops() < count(call), "torch's counter knows the fused kernel by now: drop our rules"


def test_nothing_is_counted_of_what_has_no_products() -> None:
    x = torch.randn(4, 4)
    assert count(lambda: x.exp().add(x).softmax(-1)) == 0
