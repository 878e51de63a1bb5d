"""The token transformer against torch's own encoder, and pinned so that it never changes under a checkpoint."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from torch import nn

from ldm_core.nn.transformer import TokenTransformer


def filled(module: nn.Module) -> nn.Module:
    """Every parameter set to a ramp of sines that depends on its key."""
    with torch.no_grad():
        for key, p in module.named_parameters():
            phase = zlib.crc32(key.encode()) % 1000 / 1000
            value = 0.05 * torch.sin(0.37 * torch.arange(p.numel(), dtype=torch.float64) + phase)
            if p.dim() == 1 and key.endswith(".weight"):
                value = value + 1.0
            p.copy_(value.view(p.shape))
    return module.eval()


@pytest.mark.parametrize("masked", [False, True])
def test_equals_torchs_encoder(masked: bool) -> None:
    torch.manual_seed(0)
    width, layers, length = 32, 3, 9
    mine = filled(TokenTransformer(50, width, layers, length, heads=(4, 8))).double()
    layer = nn.TransformerEncoderLayer(
        width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    oracle = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False).double().train()
    p: dict[str, torch.Tensor] = dict(mine.named_parameters())
    state = {f"norm.{k}": p[f"norm.{k}"] for k in ("weight", "bias")}
    for i in range(layers):
        a, f, to = f"attn_layers.layers.{2 * i}", f"attn_layers.layers.{2 * i + 1}", f"layers.{i}"
        state[f"{to}.self_attn.in_proj_weight"] = torch.cat([p[f"{a}.1.to_{x}.weight"] for x in "qkv"])
        state[f"{to}.self_attn.in_proj_bias"] = torch.zeros(3 * width, dtype=torch.float64)
        for k in ("weight", "bias"):
            state[f"{to}.self_attn.out_proj.{k}"] = p[f"{a}.1.to_out.{k}"]
            state[f"{to}.norm1.{k}"], state[f"{to}.norm2.{k}"] = p[f"{a}.0.{k}"], p[f"{f}.0.{k}"]
            state[f"{to}.linear1.{k}"], state[f"{to}.linear2.{k}"] = (
                p[f"{f}.1.net.0.0.{k}"],
                p[f"{f}.1.net.2.{k}"],
            )
    oracle.load_state_dict(state)
    tokens = torch.randint(0, 50, (3, length))
    mask = torch.arange(length) < torch.tensor([[9], [4], [1]]) if masked else None
    x = p["token_emb.weight"][tokens] + p["pos_emb.emb.weight"]
    want = oracle(x, src_key_padding_mask=None if mask is None else ~mask)
    torch.testing.assert_close(mine(tokens, mask), want, atol=1e-10, rtol=0)


def test_inner_width_is_its_own_and_the_output_is_pinned() -> None:
    net = filled(TokenTransformer(30, 20, 2, 7, heads=(2, 6), logits=True)).double()
    parameters = dict(net.named_parameters())
    attention, feed_forward = 40 + 3 * 20 * 12 + 12 * 20 + 20, 40 + 20 * 80 + 80 + 80 * 20 + 20
    expected = 30 * 20 + 7 * 20 + 2 * (attention + feed_forward) + 40 + 20 * 30 + 30
    assert sum(p.numel() for p in parameters.values()) == expected
    assert len(parameters) == 2 + 2 * 13 + 2 + 2
    with torch.no_grad():
        out = net(torch.arange(14).view(2, 7))
    assert out.shape == (2, 7, 20)
    pinned = [0.0319175782, 1.0230147686, 1.9763151608, 1.1472081278, 0.5972486635, 0.7310516933]
    seen = [out.mean(), out.std(correction=0), out.abs().max(), *out.flatten()[:3]]
    torch.testing.assert_close(torch.stack(seen), torch.tensor(pinned, dtype=torch.float64), atol=1e-6, rtol=0)


def test_without_positions_the_order_tells_nothing() -> None:
    """Layers of attention without positions are equivariant to the order of the tokens; with positions they are not."""
    torch.manual_seed(0)
    order = torch.tensor([3, 0, 4, 1, 2])
    tokens = torch.tensor([[5, 9, 2, 7, 1]])
    with torch.no_grad():
        for length, alike in ((0, True), (5, False)):
            net = TokenTransformer(12, 16, 2, length, heads=(2, 8), embedding_std=0.5).double()
            assert (net.pos_emb is None) == alike
            there, back = net(tokens)[:, order], net(tokens[:, order])
            assert torch.allclose(there, back, atol=1e-12) == alike


def test_a_bag_of_tokens_is_its_normed_table() -> None:
    net = filled(TokenTransformer(12, 16, 0, 0)).double()
    assert {name for name, _ in net.named_parameters()} == {"token_emb.weight", "norm.weight", "norm.bias"}
    p = dict(net.named_parameters())
    rows = p["token_emb.weight"]
    spread = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    tokens = torch.tensor([[5, 9, 2, 7, 1, 0, 11, 5], [1] * 8])
    want = (spread * p["norm.weight"] + p["norm.bias"])[tokens]
    torch.testing.assert_close(net(tokens, tokens != 1), want, atol=1e-12, rtol=0)


def test_fresh_tables_are_small() -> None:
    torch.manual_seed(0)
    net = TokenTransformer(4000, 64, 1, 77)
    assert net.pos_emb is not None
    for table in (net.token_emb.weight, net.pos_emb.emb.weight):
        assert math.isclose(table.std().item(), 0.02, rel_tol=0.05)
    assert net.to_logits is None
