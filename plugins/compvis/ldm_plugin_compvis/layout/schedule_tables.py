"""The noise schedule out of stored tables and into them. Imports no torch.

A file stores the T variances beta, in single or half precision, and not their rule; the rule is found by comparison
with the tables of every kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ldm_core.builtin.diffusion.config import VP_PRESETS, VPConfig

_SINGLE, _HALF = 3e-5, 4e-3
"""Relative error of a table: rounded to single precision, and to half."""
KINDS: tuple[Literal["linear", "sqrt_linear", "sqrt"], ...] = ("linear", "sqrt_linear", "sqrt")


def betas_of(alphas_cumprod: Sequence[float]) -> list[float]:
    """The variances of single steps behind their running product."""
    before, found = 1.0, []
    for value in alphas_cumprod:
        found.append(1 - value / before if before > 0 else 1.0)
        before = value
    return found


def schedule_of(values: Sequence[float], *, products: bool = False) -> dict[str, Any] | None:
    """Plain values of the schedule ``vp`` with `values` (T,) as its variances, or None if no kind gives them.

    With `products`, `values` are the running products of 1 - beta. Ends equal to a published schedule's are taken from
    it; others are rounded to single precision.
    """
    betas = betas_of(values) if products else list(values)
    for loose in (_SINGLE, _HALF):
        for candidate in _candidates(betas, loose):
            try:
                config = VPConfig(steps=len(betas), **candidate)
            except ValueError:
                continue
            if _agree(config.alphas_cumprod() if products else config.betas(), values, loose):
                ends = {k: v for k, v in candidate.items() if candidate["kind"] != "cosine" or not k.startswith("beta")}
                return {"use": "vp", **ends, "steps": len(betas)}
    return None


def _candidates(betas: Sequence[float], loose: float) -> Iterator[dict[str, Any]]:
    first, last = betas[0], betas[-1]
    published = {(c.kind, c.beta_start, c.beta_end) for c in VP_PRESETS.values()} | {("sqrt_linear", 1e-4, 0.02)}
    for kind, start, end in sorted(published):
        yield {"kind": kind, "beta_start": start, "beta_end": end}
        if last > 0.9:
            yield {"kind": kind, "beta_start": start, "beta_end": end, "zero_terminal": True}
    digits = 6 if loose == _SINGLE else 3
    for kind in KINDS:
        if 0 < first <= last < 1:
            power = 2 if kind == "sqrt" else 1  # its betas are the roots of a line
            start, end = _rounded(first**power, digits), _rounded(last**power, digits)
            yield {"kind": kind, "beta_start": start, "beta_end": end}


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _agree(ours: Sequence[float], theirs: Sequence[float], loose: float) -> bool:
    # Behind a running product in single precision, the error of 1 - beta counts and not that of beta.
    return all(abs(a - b) <= loose * (abs(a) + 0.02) for a, b in zip(ours, theirs, strict=True))


def tables(config: VPConfig) -> dict[str, list[float]]:
    """The twelve stored tables of a schedule, (T,) each, in double precision.

    The posterior is that of one ancestral step; its logarithm is taken above 1e-20, as published.
    """
    betas, product = config.betas(), config.alphas_cumprod()
    before = [1.0, *product[:-1]]
    rest = [1 - p for p in product]
    variance = [b * (1 - a) / r for b, a, r in zip(betas, before, rest, strict=True)]
    return {
        "betas": betas,
        "alphas_cumprod": product,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": [math.sqrt(p) for p in product],
        "sqrt_one_minus_alphas_cumprod": [math.sqrt(r) for r in rest],
        "log_one_minus_alphas_cumprod": [math.log(r) for r in rest],
        "sqrt_recip_alphas_cumprod": [math.sqrt(1 / p) if p > 0 else math.inf for p in product],
        "sqrt_recipm1_alphas_cumprod": [math.sqrt(1 / p - 1) if p > 0 else math.inf for p in product],
        "posterior_variance": variance,
        "posterior_log_variance_clipped": [math.log(max(v, 1e-20)) for v in variance],
        "posterior_mean_coef1": [b * math.sqrt(a) / r for b, a, r in zip(betas, before, rest, strict=True)],
        "posterior_mean_coef2": [(1 - a) * math.sqrt(1 - b) / r for b, a, r in zip(betas, before, rest, strict=True)],
    }
