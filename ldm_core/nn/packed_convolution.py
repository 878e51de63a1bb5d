"""Convolutions on a CPU in bfloat16 with weights packed once, as its kernels read them.

torch orders a convolution's weights anew at each call, on one core a tenth of the time of a U-Net's evaluation. Here
each layer keeps a second, ordered copy of its weights (two bytes a number). Results are the same but for a
rounding of few numbers, by a kernel with another order of its sums. As torch's own compiler does, this takes two
operators of torch that have no page in its documentation; without them nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

Layer: TypeAlias = nn.Conv1d | nn.Conv2d


class Packed:
    """The ordered weights of one layer, shared by all copies of the layer that share its parameter."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._from: tuple[Tensor, int] | None = None  # held, so that no other weight comes to lie at its address
        self._ordered = torch.empty(0)

    def __reduce__(self) -> tuple[type[Packed], tuple[()]]:
        return Packed, ()  # a copy of a layer packs its own weights

    def of(self, weight: Tensor, layer: Layer, size: list[int]) -> Tensor:
        """`weight` (O,I,kh,kw) in the kernels' order for an input of `size`; made anew after a change of `weight`."""
        with self._lock:
            if self._is_stale(weight):
                with torch.no_grad(), torch.inference_mode(False):
                    plain = _in_two_axes(weight.detach()).contiguous().to_mkldnn()
                    reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight  # type: ignore[attr-defined]
                    self._ordered = reorder(plain, *_settings(layer), layer.groups, size)
                self._from = weight.detach(), weight._version
            return self._ordered

    def _is_stale(self, weight: Tensor) -> bool:
        return self._from is None or (self._from[0].data_ptr(), self._from[1]) != (weight.data_ptr(), weight._version)


class _Packing:
    """`_conv_forward` of a layer with packed weights; torch's own in all other cases."""

    packed: Packed

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = cast(Layer, self)
        if not _fits(input, weight, bias, layer):
            return super()._conv_forward(input, weight, bias)  # type: ignore[misc, no-any-return]
        x = _in_two_axes(input.to(torch.bfloat16)).contiguous(memory_format=torch.channels_last)
        ordered = self.packed.of(weight, layer, list(x.shape))
        convolve: Callable[..., Tensor] = torch.ops.mkldnn._convolution_pointwise.default
        out = convolve(x, ordered, bias, *_settings(layer), layer.groups, "none", [], "")
        return out if input.dim() == 4 else out.squeeze(2)


class PackedConv1d(_Packing, nn.Conv1d):
    """A convolution along one axis, with packed weights."""


class PackedConv2d(_Packing, nn.Conv2d):
    """A convolution along two axes, with packed weights."""


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Conv1d: PackedConv1d, nn.Conv2d: PackedConv2d}


def pack(network: nn.Module) -> None:
    """Let the plain convolutions in `network` pack their weights at their first call in bfloat16 without gradients.

    Parameters, state keys and hooks stay. A layer with a changed weight computes with this one, as torch does.
    """
    if not _known():
        return
    for layer in network.modules():
        own = _CLASSES.get(type(layer))
        if own is not None and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.packed = Packed()  # type: ignore[assignment]
            layer.__class__ = own


def _known() -> bool:
    """True if this torch has the two operators, and this CPU instructions for bfloat16."""
    try:
        torch.ops.mkldnn._convolution_pointwise.default  # noqa: B018
        torch._C._nn.mkldnn_reorder_conv2d_weight  # type: ignore[attr-defined]  # noqa: B018
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def _fits(input: Tensor, weight: Tensor, bias: Tensor | None, layer: Layer) -> bool:
    """True for a plain call of a CPU in bfloat16 with the layer's own weights."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    if weight is not layer._parameters["weight"] or bias is not layer._parameters["bias"]:
        return False
    if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
        return False
    cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    lower = input.dtype == torch.bfloat16 or (cast and input.dtype == torch.float32)
    here = input.device.type == weight.device.type == "cpu" and input.dim() == weight.dim() and input.numel() > 0
    return here and lower and weight.dtype == torch.bfloat16 and type(input) is Tensor


def _settings(layer: Layer) -> tuple[list[object], list[int], list[int]]:
    """Padding, stride and dilation along two axes."""
    missing, padding = 2 - len(layer.kernel_size), list[object](layer.padding)
    one = [1] * missing
    return [0] * missing + padding, [*one, *layer.stride], [*one, *layer.dilation]


def _in_two_axes(x: Tensor) -> Tensor:
    return x if x.dim() == 4 else x.unsqueeze(2)
