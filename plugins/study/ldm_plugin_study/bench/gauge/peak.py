"""The machine's largest rate of matrix products, measured as the components are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch

from ldm_core.model.arithmetic import AUTOCAST
from ldm_plugin_study.bench.gauge.cases import Case
from ldm_plugin_study.bench.result.document import Peak

PEAK = "peak"
"""The component's name."""


def products(precisions: Sequence[str], sizes: Sequence[int], device: torch.device) -> Iterator[Case]:
    """Products of square matrices of each precision and size; the `amount` of a case is the size."""
    draw = torch.Generator().manual_seed(0)
    for precision in precisions:
        kind = AUTOCAST.get(precision, torch.float32)
        for size in sizes:
            a, b = (torch.randn((size, size), generator=draw).to(device, kind) for _ in range(2))
            call = partial(torch.mm, a, b, out=torch.empty_like(a))
            yield Case(component=PEAK, precision=precision, amount=size, call=call, computes=False)


def peaks(taken: Mapping[Case, Sequence[float]]) -> tuple[Peak, ...]:
    """The best rate of each precision: over sizes and rounds, since the machine can reach again a rate reached once."""
    best: dict[str, Peak] = {}
    for case, seconds in taken.items():
        if case.component != PEAK:
            continue
        found = Peak(precision=case.precision, size=case.amount, rate=2 * case.amount**3 / min(seconds))
        known = best.get(case.precision)
        if known is None or found.rate > known.rate:
            best[case.precision] = found
    return tuple(best.values())
