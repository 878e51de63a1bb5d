"""Floating-point operations of a call, counted while it runs.

Counted are matrix products, convolutions and attention, forward and backward, a multiplication and its addition as two;
additions, norms and activations are not. torch's own counter does this, but for one gap and one choice: on a CPU it
does not know the fused attention and convolutions with packed weights, and of a backward pass through fused attention
it counts the scores a second time, as the kernels make them anew. Model FLOPs are those of the mathematics: here the
backward pass of attention has four products, twice as many as the forward pass, whatever the kernel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

Shape = Sequence[int]

_FUSED = (
    "flash_attention",
    "flash_attention_for_cpu",
    "efficient_attention",
    "cudnn_attention",
    "fused_attention_overrideable",
)


def attention(query: Shape, key: Shape, value: Shape) -> int:
    """Operations of attention: (..., L, D) queries with (..., S, D) keys and (..., S, E) values."""
    heads, tokens, width = _product(query[:-2]), query[-2], query[-1]
    return 2 * heads * tokens * key[-2] * (width + value[-1])


def _product(numbers: Shape) -> int:
    out = 1
    for number in numbers:
        out *= number
    return out


def _forward(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return attention(query, key, value)


def _backward(grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return 2 * attention(query, key, value)


def _packed(x: Shape, weight: Shape, *_: object, out_shape: Shape, **__: object) -> int:
    return int(conv_flop_count(list(x), list(weight), list(out_shape)))


def _own_rules() -> Iterator[tuple[Any, Callable[..., int]]]:
    for name in _FUSED:
        for suffix, rule in (("", _forward), ("_backward", _backward)):
            packet = getattr(torch.ops.aten, f"_scaled_dot_product_{name}{suffix}", None)
            if packet is not None:
                yield packet, rule
    with contextlib.suppress(AttributeError):  # a torch without it runs none
        yield torch.ops.mkldnn._convolution_pointwise, _packed


def count(call: Callable[[], object]) -> int:
    """Run `call` once and count its operations."""
    with FlopCounterMode(display=False, custom_mapping=dict(_own_rules())) as counter:
        call()
    return int(counter.get_total_flops())
