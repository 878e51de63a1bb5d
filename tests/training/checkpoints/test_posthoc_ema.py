"""Power-function averages: their widths, and what is reconstructed from snapshots against what was tracked directly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.training.averages import posthoc
from ldm_core.training.averages.ema import EMA


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94), (0.25, 0.72), (0.01, 96.98)])
def test_exponents_and_widths_are_each_others_inverse(width: float, gamma: float) -> None:
    """0.05 and 0.10 are the paper's pair, with exponents 16.97 and 6.94."""
    exponent = posthoc.exponent_of(width)
    assert posthoc.width_of(exponent) == pytest.approx(width, rel=1e-9)
    if width in (0.05, 0.10):
        assert exponent == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("width", [0.03, 0.1, 0.2])
def test_a_width_is_the_standard_deviation_of_what_an_average_weighs(width: float) -> None:
    """The weights of each step, by running the recursion on unit impulses, against the profile's definition."""
    steps, exponent = 4000, posthoc.exponent_of(width)
    weights = np.zeros(steps)
    for n in range(1, steps + 1):
        decay = posthoc.decay_of(exponent, n)
        weights *= decay
        weights[n - 1] += 1 - decay
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    times = (np.arange(steps) + 0.5) / steps
    mean = (weights * times).sum()
    assert math.sqrt((weights * (times - mean) ** 2).sum()) == pytest.approx(width, rel=1e-3)
    edges = (np.arange(steps + 1) / steps) ** (exponent + 1)
    np.testing.assert_allclose(weights, np.diff(edges), rtol=1e-6, atol=1e-15)


def test_integrals_of_profiles_equal_sums() -> None:
    t, g = np.array([300.0, 1000.0, 1000.0]), np.array([6.94, 6.94, 16.97])
    found = posthoc._products(t, g, t, g)
    x = (np.arange(2_000_00) + 0.5) / 200  # to 1000
    profiles = np.stack([np.where(x <= a, (b + 1) * (x / a) ** b / a, 0.0) for a, b in zip(t, g, strict=True)])
    np.testing.assert_allclose(found, profiles @ profiles.T / 200, rtol=1e-5)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.29, 1.0])
def test_widths_that_no_average_has_are_refused(width: float) -> None:
    with pytest.raises(ConfigError, match=r"width: expected a number above 0 and up to 0\.28"):
        posthoc.exponent_of(width)


def trajectory(step: int, size: int) -> torch.Tensor:
    """Weights that settle and wander: a decay to their ends, slow waves, and noise from step to step."""
    noise = torch.randn(size, generator=torch.Generator().manual_seed(step))
    at = torch.arange(size) / size
    return torch.exp(-step / (50 + 400 * at)) + 0.3 * torch.sin(step / (30 + 200 * at)) + 0.2 * noise


def tracked(out: Path, direct: tuple[float, ...], steps: int = 1024, every: int = 32) -> EMA:
    """Train nothing along the trajectory, storing 0.05 and 0.10, and tracking `direct` to the end."""
    module = nn.Linear(64, 1, bias=False)
    ema = EMA(module, 0.0, (0.05, 0.10, *direct))
    for step in range(1, steps + 1):
        with torch.no_grad():
            module.weight.copy_(trajectory(step, 64)[None])
        ema.update()
        if step % every == 0:
            averages = ema.power_averages()
            stored = {w: averages[w] for w in (0.05, 0.10)}
            posthoc.write_snapshot(str(out), step, ema.updates, stored, "a run")
    return ema


def test_any_width_comes_back_from_snapshots(tmp_path: Path) -> None:
    widths = (0.05, 0.07, 0.08, 0.13, 0.15)
    ema = tracked(tmp_path, widths[1:])
    spread = float(ema.power_averages()[0.05]["weight"].std())
    errors = {}
    for width in widths:
        made = posthoc.reconstruct(str(tmp_path), width, identity="a run")
        assert (made.snapshots, made.step) == (32, 1024)
        direct = ema.power_averages()[width]["weight"]
        errors[width] = float((made.tensors["weight"] - direct).square().mean().sqrt()) / spread
        assert made.error < 0.02 and not made.poor, (width, made.error)
    print("relative errors of reconstruction", errors)
    assert errors[0.05] < 1e-5  # it was stored
    assert max(errors.values()) < 0.01, errors
    # what the nearest stored average would be off by
    nearest = ema.power_averages()[0.10]["weight"] - ema.power_averages()[0.08]["weight"]
    assert errors[0.08] < 0.1 * float(nearest.square().mean().sqrt()) / spread


def test_earlier_steps_come_back_too_and_bad_widths_are_named(tmp_path: Path) -> None:
    halfway = tracked(tmp_path, (0.08,), steps=512)
    direct = halfway.power_averages()[0.08]["weight"]
    tracked(tmp_path, (), steps=1024)
    made = posthoc.reconstruct(str(tmp_path), 0.08, step=512)
    torch.testing.assert_close(made.tensors["weight"], direct, rtol=0, atol=0.01 * float(direct.std()))
    assert posthoc.reconstruct(str(tmp_path), 0.01).poor  # far narrower than anything stored
    with pytest.raises(CheckpointError, match="`step=500`: there is no snapshot of that step; the nearest is 512"):
        posthoc.reconstruct(str(tmp_path), 0.08, step=500)
    with pytest.raises(CheckpointError, match="holds no snapshots"):
        posthoc.reconstruct(str(tmp_path), 0.08, identity="another run")
    with pytest.raises(CheckpointError, match=r"train with trainer\.ema_power"):
        posthoc.reconstruct(str(tmp_path / "nowhere"), 0.08)
