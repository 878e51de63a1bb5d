"""The full steps of DeepCache: the lists of the paper's code where it is uniform, its formula where it is not."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from ldm_plugin_feature_cache.config import DeepCacheConfig, FirstBlockCacheConfig


@pytest.mark.parametrize(
    ("steps", "interval", "expected"),
    [(50, 10, [0, 10, 20, 30, 40]), (7, 3, [0, 3, 6]), (6, 3, [0, 3]), (4, 1, [0, 1, 2, 3]), (3, 50, [0])],
)
def test_uniform(steps: int, interval: int, expected: list[int]) -> None:
    assert DeepCacheConfig(interval=interval).full_steps(steps) == expected


@pytest.mark.parametrize(
    ("steps", "interval", "center", "power"),
    [(50, 5, 15, 1.4), (250, 10, 120, 1.2), (250, 20, 120, 1.4), (50, 10, 10, 1.2)],
)
def test_quadratic_is_the_formula_of_the_paper(steps: int, interval: int, center: int, power: float) -> None:
    """Its settings: 250 steps of LDM-4-G around 120, 50 of Stable Diffusion; numpy in the place of our loop."""
    config = DeepCacheConfig(interval=interval, schedule="quadratic", center=center / steps, power=power)
    count = -(-steps // interval)
    line = np.linspace(-(center ** (1 / power)), (steps - center) ** (1 / power), count + 1)[:-1]
    expected = np.unique(np.floor(np.round(np.sign(line) * np.abs(line) ** power + center, 6)).astype(int))
    found = config.full_steps(steps)
    assert found == expected.tolist() and len(found) == count
    gaps = np.diff(found)
    nearest = int(np.argmin(np.abs(np.asarray(found) - center)))
    assert gaps[max(nearest - 1, 0) : nearest + 1].max() <= gaps[0] <= gaps.max(), "dense around the center"


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
def test_quadratic_has_as_many_as_uniform(interval: int) -> None:
    """In order, within the run, the first one among them, whatever center and power."""
    for center, power in product((0.0, 0.3, 1.0), (1.0, 1.4, 4.0)):
        for steps in range(1, 60):
            found = DeepCacheConfig(interval=interval, schedule="quadratic", center=center, power=power).full_steps(
                steps
            )
            assert len(found) == -(-steps // interval)
            assert found == sorted(set(found)) and found[0] == 0 and found[-1] < steps


def test_odd_settings_are_refused() -> None:
    for wrong, words in (
        ({"interval": 0}, "interval: expected at least 1"),
        ({"branch": -1}, "branch: expected at least 0"),
        ({"center": 15.0}, "center: expected at most 1"),
        ({"power": 0.5}, "power: expected at least 1"),
        ({"schedule": "cubic"}, "schedule"),
    ):
        with pytest.raises(ValueError, match=words):
            DeepCacheConfig(**wrong)
    with pytest.raises(ValueError, match="threshold: expected at least 0"):
        FirstBlockCacheConfig(threshold=-0.1)
