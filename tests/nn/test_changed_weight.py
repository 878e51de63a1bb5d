"""Layers that compute with a function of their weight."""

from __future__ import annotations

import pytest
import torch
from together import together
from torch import Tensor, nn

from ldm_core.nn.attention import AttentionBlock, attend
from ldm_core.nn.changed_weight import change_weight


def doubled(weight: Tensor) -> Tensor:
    return 2 * weight


def test_the_layer_computes_with_the_changed_weight_and_keeps_its_own() -> None:
    layer = nn.Linear(3, 2)
    x, own, keys = torch.randn(4, 3), layer.weight, list(layer.state_dict())
    plain = layer(x)
    handle = change_weight(layer, doubled)
    assert torch.equal(layer(x), nn.functional.linear(x, 2 * own, layer.bias))
    assert isinstance(layer, nn.Linear) and list(layer.state_dict()) == keys
    assert torch.equal(layer.state_dict()["weight"], own) and dict(layer.named_parameters())["weight"] is own
    layer.load_state_dict({"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
    assert torch.equal(layer(torch.ones(1, 3)), torch.full((1, 2), 6.0))
    layer(x).sum().backward()
    assert own.grad is not None and torch.equal(own.grad, 2 * x.sum(0).expand(2, 3))
    handle.remove()
    handle.remove()
    assert type(layer) is nn.Linear and not [name for name in vars(layer) if "changed" in name]
    with torch.no_grad():
        own.copy_(torch.zeros(2, 3))
    assert not layer(x).any() and plain.shape == (4, 2)


def test_changes_apply_in_their_order_and_go_one_by_one() -> None:
    layer = nn.Conv2d(1, 1, 1, bias=False)
    x = torch.ones(1, 1, 1, 1)
    with torch.no_grad():
        layer.weight.fill_(3.0)
    first, second = change_weight(layer, doubled), change_weight(layer, lambda weight: weight + 1)
    assert layer(x).item() == 7.0
    first.remove()
    assert layer(x).item() == 4.0
    change_weight(layer, doubled)
    assert layer(x).item() == 8.0
    second.remove()
    assert layer(x).item() == 6.0


def test_any_parameter_of_the_layer_itself_may_change() -> None:
    norm = nn.LayerNorm(4)
    x = torch.randn(2, 4)
    plain = norm(x)
    handles = [change_weight(norm, doubled), change_weight(norm, lambda bias: bias + 1, "bias")]
    torch.testing.assert_close(norm(x), 2 * plain + 1)
    for handle in handles:
        handle.remove()
    assert torch.equal(norm(x), plain)
    with pytest.raises(ValueError, match="LayerNorm has no parameter 'gain'"):
        change_weight(norm, doubled, "gain")


def test_a_change_that_fails_is_told_and_never_passed_over() -> None:
    layer = nn.Linear(2, 2)
    change_weight(layer, lambda weight: weight.no_such_name)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"the change of 'weight' failed: .*no_such_name"):
        layer(torch.ones(1, 2))


def test_moving_and_threads_see_the_change() -> None:
    layer = nn.Linear(8, 8, bias=False)
    x = torch.randn(3, 8)
    change_weight(layer, doubled)
    layer.double().float()
    expected = layer(x)
    assert all(torch.equal(each, expected) for each in together([lambda: layer(x)] * 4))


@pytest.mark.parametrize("by_role", [False, True])
def test_rows_of_a_fused_projection_are_its_queries_keys_and_values(by_role: bool) -> None:
    block = AttentionBlock(8, 2, norm_groups=4, new_attention_order=by_role)
    x = torch.randn(1, 8, 5)
    bias = block.qkv.bias
    assert bias is not None
    of_each = {name: [row for a, b in rows for row in range(a, b)] for name, rows in block.rows().items()}
    assert sorted(row for rows in of_each.values() for row in rows) == list(range(24))
    q, k, v = (
        nn.functional.linear(x[0].T, block.qkv.weight[of_each[name], :, 0], bias[of_each[name]])
        .view(5, 2, 4)
        .transpose(0, 1)[None]
        for name in ("to_q", "to_k", "to_v")
    )
    expected = attend(q, k, v).transpose(-1, -2).flatten(1, 2)
    torch.testing.assert_close(block.attention(block.qkv(x), 2), expected)
