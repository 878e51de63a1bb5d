"""The kinds of operation in a call, each with its share of the time, by torch's profiler."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import torch
from torch.profiler import ProfilerActivity, profile

_CALLS = 3  # at most
_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(words))
    for kind, words in (
        ("attention", r"scaled_dot_product|softmax|flash_att"),
        ("norms", r"norm|var_mean"),
        ("convolutions", r"conv"),
        ("products", r"(^|_|::)(mm|bmm|addmm|baddbmm|matmul|linear|dot|mv|einsum)(_|$)|addmm|gemm|mkldnn_linear"),
        ("activations", r"silu|gelu|relu|sigmoid|tanh|glu|swish"),
        ("resizing", r"upsample|interpolate|pool|pixel_shuffle|(^|::)(constant_)?pad"),
        (
            "copies",
            r"copy|clone|contiguous|cat|stack|(^|::)to$|fill|zero|index|gather|scatter|embedding|empty|memcpy|memset",
        ),
        (
            "arithmetic",
            r"(^|::|_)(add|sub|rsub|mul|div|pow|sqrt|rsqrt|exp|log|neg|abs|sum|mean|square|where|clamp|sin|cos|lerp)",
        ),
    )
)
KINDS = (*(kind for kind, _ in _KINDS), "rest")
"""The kinds, in the order in which an operation's name is looked at; the rest is torch's own bookkeeping as well."""


def kind_of(operation: str) -> str:
    """The kind of an operation by its name in a profile, ``aten::conv2d`` or that of a GPU's kernel."""
    name = operation.removeprefix("autograd::engine::evaluate_function: ").removeprefix("aten::").lower()
    name = re.sub(r"backward\d*$", "", name)
    return next((kind for kind, words in _KINDS if words.search(name)), "rest")


def shares(call: Callable[[], object], device: torch.device, rounds: int = _CALLS) -> Mapping[str, float]:
    """Run `call` once a round, three times at most; the share of each kind of operation in its time, none below a
    thousandth.

    The least time of each kind counts: the profiler measures by the clock, and other programs may come between.
    """
    taken = [_times(call, device) for _ in range(min(rounds, _CALLS))]
    least = {kind: min(each[kind] for each in taken) for kind in KINDS}
    total = sum(least.values())
    return {kind: round(time / total, 4) for kind, time in least.items() if total and time >= total / 1000}


def _times(call: Callable[[], object], device: torch.device) -> Counter[str]:
    gpu = device.type == "cuda"
    with _silent(), profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
        call()
        if gpu:
            torch.cuda.synchronize(device)
    taken = Counter[str]()
    for event in found.key_averages():
        taken[kind_of(event.key)] += event.self_device_time_total if gpu else event.self_cpu_time_total
    return taken


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without standard error: torch 2.13's profiler writes lines of its own there, and knows no way to be quiet."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
