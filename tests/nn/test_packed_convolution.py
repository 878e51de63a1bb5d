"""Convolutions with packed weights: torch's own to one rounding, whatever the layer, and plainly torch's own where they
cannot be packed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ldm_core.model.shared import shared_copy
from ldm_core.nn.changed_weight import change_weight
from ldm_core.nn.packed_convolution import _known, pack

pytestmark = pytest.mark.skipif(not _known(), reason="this CPU or this torch has no packed convolutions in bfloat16")


class Counter(TorchDispatchMode):
    """Calls of the operator with packed weights."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.overloadpacket is torch.ops.mkldnn._convolution_pointwise
        return func(*args, **(kwargs or {}))


def _layer(kind: type[nn.Module], **settings: Any) -> Any:
    torch.manual_seed(0)
    layer: Any = kind(32, 48, **settings)
    return layer.bfloat16().to(memory_format=torch.channels_last) if kind is nn.Conv2d else layer.bfloat16()


def _packed(layer: nn.Module) -> Any:
    made = nn.Sequential(copy.deepcopy(layer))
    pack(made)
    return made[0]


def _call(layer: Any, x: Tensor) -> tuple[Tensor, int]:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Counter() as counter:
        return layer(x), counter.calls


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
        (nn.Conv2d, {"kernel_size": 3, "padding": 1, "stride": 2}),
        (nn.Conv2d, {"kernel_size": (3, 1), "padding": (2, 0), "dilation": (2, 1), "groups": 4, "bias": False}),
        (nn.Conv2d, {"kernel_size": 1}),
        (nn.Conv1d, {"kernel_size": 1}),
        (nn.Conv1d, {"kernel_size": 3, "padding": 1, "stride": 2}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
def test_results_are_torchs_to_a_rounding_at_any_size(
    kind: Any, settings: dict[str, Any], dtype: torch.dtype, last: bool
) -> None:
    layer = _layer(kind, **settings)
    packed = _packed(layer)
    for shape in ((2, 32, 16, 16), (1, 32, 8, 24), (5, 32, 16, 16)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        x = x.to(memory_format=torch.channels_last) if last else x
        x = x.flatten(2) if kind is nn.Conv1d else x
        (found, calls), (wanted, none) = _call(packed, x), _call(layer, x)
        assert (calls, none) == (1, 0)
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        apart = (found.double() - wanted.double()).abs()
        assert float((apart > 0).double().mean()) < 0.01  # another kernel adds in another order
        assert bool((apart <= 2**-7 * wanted.double().abs() + 1e-6).all())


def test_a_change_of_the_weight_is_seen() -> None:
    layer = _layer(nn.Conv2d, kernel_size=3)
    packed, x = _packed(layer), torch.randn(2, 32, 8, 8)
    _call(packed, x)
    for change in (lambda p: p.mul_(2.0), lambda p: setattr(p, "data", p.data * 3.0)):
        for each in (layer, packed):
            with torch.no_grad():
                change(each.weight)
        assert torch.equal(_call(packed, x)[0], _call(layer, x)[0])


def test_copies_share_the_packed_weights_and_deep_ones_have_their_own() -> None:
    packed, x = _packed(_layer(nn.Conv2d, kernel_size=3)), torch.randn(2, 32, 8, 8)
    wanted, _ = _call(packed, x)
    beside: Any = shared_copy([packed], frozenset())[packed]
    assert beside.packed is packed.packed
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert other.packed is not packed.packed
        found, calls = _call(other, x)
        assert calls == 1 and torch.equal(found, wanted)
        with torch.no_grad():
            other.weight.zero_()
        assert torch.equal(_call(packed, x)[0], wanted)


def test_a_changed_weight_and_gradients_are_torchs() -> None:
    layer = _layer(nn.Conv2d, kernel_size=3)
    packed, x = _packed(layer), torch.randn(2, 32, 8, 8)
    handle = change_weight(packed, lambda weight: weight * 2.0)
    found, calls = _call(packed, x)
    assert calls == 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found, nn.functional.conv2d(x, layer.weight * 2.0, layer.bias))
    handle.remove()
    assert _call(packed, x)[1] == 1
    grads = []
    for each in (layer, packed):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            each(given).square().sum().backward()
        grads.append(given.grad)
    assert grads[0] is not None and grads[1] is not None and torch.equal(grads[0], grads[1])


def test_what_is_not_bfloat16_on_plain_layers_stays_torchs() -> None:
    x = torch.randn(2, 32, 8, 8)
    torch.manual_seed(0)
    single = nn.Conv2d(32, 48, 3)
    with torch.no_grad(), Counter() as counter:
        assert torch.equal(_packed(single)(x), single(x))
    assert counter.calls == 0
    circular = _layer(nn.Conv2d, kernel_size=3, padding=1, padding_mode="circular")
    same = _layer(nn.Conv2d, kernel_size=3, padding="same")
    assert type(_packed(circular)) is type(_packed(same)) is nn.Conv2d
    packed = _packed(_layer(nn.Conv2d, kernel_size=3))
    assert list(packed.state_dict()) == ["weight", "bias"]
    traced = torch.jit.trace(packed, x.bfloat16(), check_trace=False)
    assert "mkldnn::" not in str(traced.inlined_graph)
