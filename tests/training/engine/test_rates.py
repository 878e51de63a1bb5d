"""Learning rates against closed forms and the published schedules' values."""

from __future__ import annotations

import math

import attrs
import pytest

from ldm_core.recipe.settings import TrainerSettings
from ldm_core.training.learning_rate import learning_rate


def test_the_warm_up_is_the_published_one_a_step_ahead() -> None:
    """From 1e-6 of the rate over 10 000 steps: .5000005 at 5000 and 1 from 10 000 on."""
    settings = TrainerSettings(lr=1.0, warmup_steps=10_000, steps=50_000)
    for n in (1, 100, 5000, 9999, 10_000, 20_000):
        published = 1e-6 + (1 - 1e-6) * min(1.0, n / 10_000)
        assert learning_rate(settings, n - 1) == pytest.approx(published, abs=1e-6)
        if n == 5000:
            assert published == pytest.approx(0.5000005, abs=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_last_rate_is_the_given_share(schedule: str) -> None:
    settings = TrainerSettings(lr=2.0, warmup_steps=10, steps=110, final_lr=0.1, schedule=schedule)  # type: ignore[arg-type]
    assert learning_rate(settings, 10) == pytest.approx(2.0)
    assert learning_rate(settings, 60) == pytest.approx(2.0 * 0.55)  # half of the way, for both
    assert learning_rate(settings, 110) == pytest.approx(0.2)
    rates = [learning_rate(settings, n) for n in range(10, 110)]
    assert rates == sorted(rates, reverse=True)


def test_the_inpainting_models_cosine() -> None:
    """From .001 in 1000 steps up to .1, then by cosine to .0001 at 50 000 and on (.05005 half of the way between)."""
    settings = TrainerSettings(
        lr=0.1, warmup_steps=1000, warmup_from=0.01, steps=360_000, decay_end=50_000, schedule="cosine", final_lr=1e-3
    )
    published = {1: 0.001 + 0.099 / 1000, 500: 0.0505, 1000: 0.1}
    for n, rate in published.items():  # the warm-up is a step ahead
        assert learning_rate(settings, n - 1) == pytest.approx(rate)
    assert learning_rate(settings, 1000) == pytest.approx(0.1)
    assert learning_rate(settings, 25_500) == pytest.approx(0.05005)
    for n in (50_000, 100_000, 359_999):
        assert learning_rate(settings, n) == pytest.approx(0.0001)


def test_inverse_square_root_rates() -> None:
    """EDM2: lr / sqrt(max(n / n_ref, 1)) after n steps."""
    settings = TrainerSettings(lr=0.01, warmup_steps=10, steps=400_000, schedule="inverse_sqrt", decay_start=70_000)
    for n in (10, 1000, 70_000, 70_001, 140_000, 280_000):
        assert learning_rate(settings, n - 1) == pytest.approx(0.01 / math.sqrt(max(n / 70_000, 1)), rel=1e-12)
    own = attrs.evolve(settings, decay_start=0)  # from the warm-up's end on: no jump
    assert learning_rate(own, 9) == pytest.approx(0.01)
    assert learning_rate(own, 39) == pytest.approx(0.005)
    none = attrs.evolve(settings, decay_start=0, warmup_steps=0)
    assert learning_rate(none, 0) == pytest.approx(0.01) and learning_rate(none, 3) == pytest.approx(0.005)
