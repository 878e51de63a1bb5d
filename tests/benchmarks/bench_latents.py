"""Training steps a second with latents that were encoded once, and with images that are encoded at each step.

The same model, first stage and data; rounds alternate, the median of each counts, and only the ratio means anything.
Run it on an idle machine: python THIS_FILE [--rounds 5]. Wanted: at least 1.4. Cached steps read their moments from
memory; ``--disk`` reads them from their shards, one by one.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from idleness import Others

from ldm_core.catalog import Catalog
from ldm_core.config import overrides
from ldm_core.contracts.streams import mix_seed
from ldm_core.model.build import make_model, make_objective, sampling_site
from ldm_core.training import workflow
from ldm_core.training.context import RunContext
from ldm_core.training.denoiser.task import DenoiserTask
from ldm_core.training.feed.examples import Examples, arrange
from ldm_core.training.feed.loader import Loader
from ldm_core.training.latents.cache import LatentExamples
from ldm_core.training.stages import Stages

WANTED = 1.4
PLAIN: dict[str, Any] = {
    # The paper's pair for ImageNet (vq_f4 and the LDM-4 U-Net) at a quarter of its widths and half its image size. By
    # count of operations at full size and 256 x 256, an encoding costs 0.72 of the rest of a step: a ratio of 1.72.
    "image_size": 128,
    "first_stage": {"use": "vq_f4", "channels": 32, "codebook_size": 256, "legacy_beta": False},
    "conditioners": [],
    "denoiser": {"use": "unet_cin_f4", "channels": 48, "norm_groups": 16},
    "dataset": {"use": "shapes", "scenes": 64, "val_scenes": 8},
    "first_stage_trainer": {"steps": 1, "images_per_step": 4, "adversarial": False, "codebook_init_images": 32,
                            "statistics_images": 32, "validate_images": 4},
    "trainer": {"steps": 100_000, "images_per_step": 4, "ema": 0.999, "precision": "fp32"},
}  # fmt: skip


def stepper(context: RunContext, *, cached: bool) -> Callable[[], None]:
    """One training step of the real task on the real loader; with its own model from the same seed."""
    recipe, world = context.recipe, context.run.world
    model = make_model(recipe, context.catalog, context.stage())
    made = context.moments() if cached else None
    assert (made is not None) == cached
    examples = Examples(context.paired(), recipe.image_size, recipe.data, ["image"])
    fetch: Any = examples if made is None else LatentExamples(made, None)
    loader = Loader(
        fetch,
        arrange(context.paired(), recipe.data, recipe.image_size),
        fetch.keys,
        images_per_step=recipe.trainer.images_per_step,
        accumulate=1,
        steps=recipe.trainer.steps,
        world=world,
        seed=mix_seed(recipe.seed, "denoiser"),
    )
    objective = make_objective(recipe, context.catalog, sampling_site(recipe, context.stage()))
    task = DenoiserTask(model, objective, context.stage(), recipe, world)
    batches: Iterator[Any] = loader.steps(0)
    done = 0

    def step() -> None:
        nonlocal done
        task.step(done, next(batches), measure=False)
        done += 1

    return step


def measure(rounds: int, steps: int, disk: bool) -> tuple[float, float]:
    """Steps a second, (cached, encoded at each step)."""
    with tempfile.TemporaryDirectory() as folder:
        plain = copy.deepcopy(PLAIN)
        if disk:
            overrides.apply_overrides(plain, ["data.keep=0"], [])
        catalog = Catalog.discover()
        recipe, info = workflow.prepare(plain, catalog)
        context = RunContext(recipe, info, catalog, folder)
        work = Stages(context)
        work.first_stage()
        work.latents()
        both = [stepper(context, cached=True), stepper(context, cached=False)]
        taken: list[list[float]] = [[], []]
        for number in range(rounds + 1):
            for which, step in enumerate(both):
                begun = time.perf_counter()
                for _ in range(steps):
                    step()
                if number:  # the first round warms up
                    taken[which].append((time.perf_counter() - begun) / steps)
    cached, encoded = (1 / statistics.median(times) for times in taken)
    return cached, encoded


@pytest.mark.benchmark
def test_it_measures() -> None:
    """A short run of it; the figures of a loaded machine say nothing."""
    cached, encoded = measure(rounds=1, steps=2, disk=False)
    print(f"cached {cached:.2f} steps/s, encoded at each step {encoded:.2f}")
    assert cached > 0 < encoded


def main(arguments: list[str]) -> None:
    """Print the figures and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--disk", action="store_true", help="read moments from their shards and not from memory")
    said = parser.parse_args(arguments)
    others = Others()
    cached, encoded = measure(said.rounds, said.steps, said.disk)
    print(f"cached latents: {cached:.2f} steps/s; encoded at each step: {encoded:.2f} steps/s")
    print(f"ratio {cached / encoded:.2f} (wanted: {WANTED}); {others.line()}")


if __name__ == "__main__":
    main(sys.argv[1:])
