"""A tiny adversarial first stage, trained without files: what each step logs, and what is measured at its end.

As a script, on the processes that torchrun starts: ``first_stage_curves.py OUT.json {label: [kind, override...]}``.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from training_runs import TINY, VQ

from ldm_core.catalog import Catalog
from ldm_core.config import overrides as overrides_
from ldm_core.contracts.streams import mix_seed
from ldm_core.model.build import make_first_stage
from ldm_core.model.fill import seeded
from ldm_core.model.parts import make_dataset
from ldm_core.training import workflow
from ldm_core.training.engine import world
from ldm_core.training.feed.examples import Examples
from ldm_core.training.feed.loader import Loader
from ldm_core.training.first_stage.parts import Training
from ldm_core.training.first_stage.task import FirstStageTask
from ldm_core.training.first_stage.train import make_losses, spread_images
from ldm_core.training.first_stage.validation import HeldOut, evaluating
from ldm_core.training.latents.statistics import fit_normalization

KL: dict[str, Any] = {
    "use": "kl_ae", "channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "mid_attention": False, "norm_groups": 4,
    "z_channels": 2,
}  # fmt: skip
EVERYTHING = ("r1_weight=1.0", "r1_every=4", "log_variance=true", "revive_every=3", "lr=1e-4")
"""Every option that could depend on how a batch is shared out; lr is three times the default. (At 1e-3 the rounding
of the sums grows too fast to compare: some unit of the discriminator crosses the bend of its activation.)"""


class Trial:
    """The parts of one such run, on the processes that there are."""

    def __init__(self, kind: str, overrides: Sequence[str]) -> None:
        plain = {**copy.deepcopy(TINY), "image_size": 32, "first_stage": {"vq": VQ, "kl": KL}[kind]}
        fixed = ("steps=20", "images_per_step=8", "discriminator_layers=2")
        given = [f"first_stage_trainer.{o}" for o in (*fixed, *overrides)]
        catalog = Catalog.discover()
        overrides_.apply_overrides(plain, given, ["first_stage", "denoiser", "dataset", "conditioners"])
        self.recipe, _ = workflow.prepare(plain, catalog)
        self.settings, self.world = self.recipe.first_stage_trainer, world.start()
        data = make_dataset(self.recipe, catalog)
        self.examples = Examples(data, self.recipe.image_size, self.recipe.data, ["image"])
        stage: Any = make_first_stage(self.recipe, catalog)
        self.stage = stage

        def first_images(count: int) -> Any:
            return (x for _, x in spread_images(self.examples, count, self.world))

        losses = make_losses(self.recipe, catalog, self.world)
        self.objective = losses.objective
        training = Training(self.recipe, self.world, first_images)
        self.task = FirstStageTask(self.stage, losses, self.recipe, self.world, training)
        self.loader = Loader(
            self.examples.__getitem__,
            self.examples.arrangement,
            self.examples.keys,
            images_per_step=self.settings.images_per_step,
            accumulate=self.settings.accumulate,
            steps=self.settings.steps,
            world=self.world,
            seed=mix_seed(self.recipe.seed, "first_stage"),
        )

    def train(self) -> list[dict[str, float]]:
        """What each step logs."""
        rows = []
        for step, micros in enumerate(self.loader.steps(0)):
            for part in self.task.parts:
                part.set_lr(self.settings.lr)
            with seeded(mix_seed("curves", step, self.world.rank)):
                logs = self.task.step(step, micros, measure=True)
            rows.append({k: float(v) for k, v in logs.items()})
        return rows

    def measure(self) -> dict[str, Any]:
        """Scores of the reconstructions and the latents' statistics, as they are."""
        held_out = HeldOut(self.examples, self.settings, self.world, self.objective)
        with evaluating(self.stage):
            scores = held_out.measure(lambda x: self.stage.reconstruct(x, streams=None).image)
            blocks = spread_images(self.examples, 100, self.world, self.world.rank, self.world.size)
            mean, std = fit_normalization(self.stage, blocks_of_seeds(blocks), self.world)
        return {**scores, "mean": mean.tolist(), "std": std.tolist()}


def blocks_of_seeds(blocks: Any) -> Any:
    """Blocks of images with their numbers as seeds."""
    return ((x, numbers) for numbers, x in blocks)


def everything(trials: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """For each label, the curve and the measurements of a trial (kind, override...); no curve for "untrained ..."."""
    out = {}
    for label, (kind, *overrides) in trials.items():
        trial = Trial(kind.removeprefix("untrained "), overrides)
        out[label] = {"curve": [] if kind.startswith("untrained") else trial.train(), **trial.measure()}
    return out


def largest_difference(a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The largest relative difference of two curves, by what was logged; an AssertionError where that differs."""
    worst: dict[str, float] = {}
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys(), x.keys() ^ y.keys()
        for key, value in x.items():
            worst[key] = max(worst.get(key, 0.0), abs(value - y[key]) / max(abs(value), 1e-12))
    return worst


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = everything(json.loads(sys.argv[2]))
    if world.start().main:
        Path(sys.argv[1]).write_text(json.dumps(found))
    world.stop()
