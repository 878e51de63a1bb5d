"""Stored tables to schedules and back: every kind, in both precisions, and the published numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ldm_plugin_compvis.layout.schedule_tables import schedule_of, tables
from ldm_plugin_compvis.layout.state_dict import BUFFERS

from ldm_core.builtin.diffusion.config import VPConfig

CASES: list[dict[str, Any]] = [
    {"kind": "linear", "beta_start": 0.0015, "beta_end": 0.0195, "steps": 1000},
    {"kind": "linear", "beta_start": 0.0015, "beta_end": 0.0205, "steps": 1000},
    {"kind": "linear", "beta_start": 0.0015, "beta_end": 0.015, "steps": 1000},
    {"kind": "linear", "beta_start": 0.00085, "beta_end": 0.012, "steps": 1000},
    {"kind": "sqrt_linear", "beta_start": 0.0001, "beta_end": 0.02, "steps": 1000},
    {"kind": "sqrt_linear", "beta_start": 0.002, "beta_end": 0.03, "steps": 250},
    {"kind": "sqrt", "beta_start": 0.0001, "beta_end": 0.02, "steps": 100},
    {"kind": "linear", "beta_start": 0.0012345, "beta_end": 0.0234, "steps": 77},
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("products", [False, True])
def test_the_rule_is_found(case: dict[str, Any], products: bool) -> None:
    config = VPConfig(**case)
    table = config.alphas_cumprod() if products else config.betas()
    stored = torch.tensor(table, dtype=torch.float64).float().tolist()
    found = schedule_of(stored, products=products)
    assert found is not None and found["use"] == "vp" and found["kind"] == case["kind"]
    assert found["steps"] == case["steps"]
    digits = 1e-3 if products else 1e-5  # 1 - a product in single precision holds four digits of a small beta
    assert found["beta_start"] == pytest.approx(case["beta_start"], rel=digits)
    assert found["beta_end"] == pytest.approx(case["beta_end"], rel=digits)
    if case["steps"] == 1000:  # a published one is found exactly
        assert {k: found[k] for k in case} == case


def test_half_precision_cosine_and_a_stretched_table() -> None:
    half = torch.tensor(VPConfig(beta_start=0.00085, beta_end=0.012).betas()).half().tolist()
    found = schedule_of(half)
    assert found == {"use": "vp", "kind": "linear", "beta_start": 0.00085, "beta_end": 0.012, "steps": 1000}
    cosine = torch.tensor(VPConfig(kind="cosine").betas()).tolist()
    assert schedule_of(cosine) == {"use": "vp", "kind": "cosine", "steps": 1000}
    config = VPConfig(beta_start=0.00085, beta_end=0.012, zero_terminal=True)
    for products in (False, True):
        table = config.alphas_cumprod() if products else config.betas()
        stretched = schedule_of(torch.tensor(table).tolist(), products=products)
        assert stretched is not None and stretched["zero_terminal"] is True and stretched["beta_end"] == 0.012


def test_other_tables_have_no_rule() -> None:
    assert schedule_of([0.01, 0.02, 0.01]) is None
    assert schedule_of([0.0] * 10) is None
    assert schedule_of([float("nan")] * 10) is None
    assert schedule_of([2.0, -1.0]) is None


def test_the_stored_tables_against_their_definitions() -> None:
    """In torch, from the formulas of Ho et al. 2020; the published ends of the running product."""
    found = {k: torch.tensor(v, dtype=torch.float64) for k, v in tables(VPConfig()).items()}
    assert tuple(found) == BUFFERS
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    product = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    variance = betas * (1 - before) / (1 - product)
    expected = {
        "betas": betas,
        "alphas_cumprod": product,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": product.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - product).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - product).log(),
        "sqrt_recip_alphas_cumprod": product.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / product - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - product),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - product),
    }
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-10, atol=1e-13), name
    assert found["alphas_cumprod"][[0, 500, 999]].tolist() == pytest.approx([0.9985, 0.114922, 1.42304e-4], rel=1e-5)
