"""Processor time a step of the training loop itself, around a task that does nothing: no logs, no checkpoints between.

The median of rounds, of this thread alone, so that it means something on a busy machine too: python THIS_FILE
[--rounds 7]. Wanted: less than a millisecond.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from ldm_core.recipe.settings import TrainerSettings
from ldm_core.training.engine import world
from ldm_core.training.engine.part import Part
from ldm_core.training.folder.metrics import MetricsFile
from ldm_core.training.folder.stopping import Run, Stop
from ldm_core.training.loop import train

STEPS = 500
SETTINGS = TrainerSettings(steps=STEPS, images_per_step=1, log_every=2 * STEPS, checkpoint_every=2 * STEPS, ema=0.0)


class Idle:
    """A task of one part that no step trains."""

    stage, ema = "idle", None

    def __init__(self, here: world.World) -> None:
        self.parts: Sequence[Part] = [Part("model", nn.Linear(1, 1), SETTINGS, here, "trainer")]
        self.part_steps = {"model": 0}
        self.taken = 0

    def prepare(self, start: int) -> None:
        """Nothing."""

    def step(self, step: int, micros: Sequence[Any], *, measure: bool) -> Mapping[str, Any]:
        """Counts."""
        self.taken += 1
        return {}

    def validate(self, step: int) -> Mapping[str, float]:
        """No measure."""
        return {}

    def preview(self, step: int) -> None:
        """Nothing."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing."""


class Deaf:
    """Observers that are told nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda **_: None


class Loader:
    """Batches of nothing."""

    def steps(self, start: int) -> Iterator[tuple[()]]:
        """One a step."""
        yield from [()] * (STEPS - start)


def measure(rounds: int) -> float:
    """Print and give the median of seconds a step."""
    costs = []
    for _ in range(rounds):
        here = world.start()
        task: Any = Idle(here)
        hook: Any = Deaf()
        loader: Any = Loader()
        with tempfile.TemporaryDirectory() as out:
            run = Run(out, here, hook, Stop(), MetricsFile("", active=False))
            begun = time.thread_time()
            train(task, loader, SETTINGS, run, folder=str(Path(out) / "checkpoints"), identity="bench")
            costs.append((time.thread_time() - begun) / STEPS)
        assert task.taken == STEPS
    found = statistics.median(costs)
    print(f"{found * 1e6:.0f} us of processor time a step ({min(costs) * 1e6:.0f} to {max(costs) * 1e6:.0f})")
    return found


@pytest.mark.benchmark
def test_cost_of_a_step() -> None:
    """Prints it; asserts none."""
    assert measure(rounds=3) > 0


def main() -> None:
    """Print the cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    measure(parser.parse_args().rounds)


if __name__ == "__main__":
    main()
