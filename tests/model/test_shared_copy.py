"""Modules beside modules with the same tensors: hooks of one are not in the other."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.model.shared import hooks_of, shared_copy
from ldm_core.nn.changed_weight import change_weight


class Net(nn.Module):
    """Layers that are reached in the ways that networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])
        self.scales = nn.ParameterDict({"a": nn.Parameter(torch.ones(4))})
        self.register_buffer("shift", torch.ones(4))
        self.listed, self.named = [self.first], {"second": (self.second,)}
        self.step = self._step
        self.last = partial(self._with, self.third, scale=2.0)
        self.seen: dict[str, int] = {}

    def _step(self, x: Tensor) -> Tensor:
        return self.listed[0](x)

    def _with(self, layer: nn.Module, x: Tensor, scale: float) -> Tensor:
        return scale * layer(x)

    def forward(self, x: Tensor) -> Tensor:
        self.seen["calls"] = self.seen.get("calls", 0) + 1
        x = self.named["second"][0](self.step(x))
        return self.last(self.blocks[0](x)) * self.scales["a"] + self.shift


def layers(net: Any) -> list[Any]:
    return [net.first, net.second, net.third, net.blocks[0]]


def test_a_copy_shares_all_tensors_and_no_module() -> None:
    net = Net()
    copy: Any = shared_copy([net], hooks_of([net]))[net]
    x = torch.randn(2, 4)
    assert torch.equal(net(x), copy(x)) and copy.seen == {"calls": 1}
    assert all(a is b for a, b in zip(net.parameters(), copy.parameters(), strict=True))
    assert all(a is b for a, b in zip(net.buffers(), copy.buffers(), strict=True))
    assert not set(net.modules()) & set(copy.modules())
    assert list(net.state_dict()) == list(copy.state_dict())
    with torch.no_grad():
        net.first.weight.zero_()
    assert torch.equal(net(x), copy(x))


def test_each_way_to_a_layer_leads_to_the_copys() -> None:
    for number in range(4):
        net = Net()
        copy = shared_copy([net], hooks_of([net]))[net]
        x = torch.randn(2, 4)
        plain = net(x)
        layers(copy)[number].register_forward_hook(lambda module, given, out: out + 1)
        assert torch.equal(net(x), plain)
        assert not torch.equal(copy(x), plain), f"layer {number} of the copy is not asked"


def test_hooks_and_changes_that_are_not_to_go_along_stay() -> None:
    net, x = Net(), torch.randn(2, 4)
    net.first.register_forward_hook(lambda module, given, out: out + 1)
    change_weight(net.third, lambda weight: 2 * weight)
    kept, plain = hooks_of([net]), net(x)
    net.second.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    change_weight(net.first, lambda weight: 2 * weight)
    copy: Any = shared_copy([net], kept)[net]
    assert torch.equal(copy(x), plain) and not torch.equal(net(x), plain)
    assert type(copy.first) is nn.Linear and type(copy.third) is not nn.Linear
    change_weight(copy.second, lambda weight: 0 * weight)
    adapted = net(x)
    assert torch.equal(net(x), adapted) and not torch.equal(copy(x), plain)


def test_a_new_parameter_in_the_copy_is_its_own() -> None:
    net, x = Net(), torch.randn(2, 4)
    copy: Any = shared_copy([net], hooks_of([net]))[net]
    before, plain = net.first.weight, net(x)
    copy.first.weight = nn.Parameter(before + 1)
    assert net.first.weight is before and torch.equal(net(x), plain) and not torch.equal(copy(x), plain)
    copy.first.weight = before
    assert torch.equal(copy(x), plain)
    copy.eval().requires_grad_(True)
    assert net.training
