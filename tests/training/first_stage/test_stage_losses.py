"""The losses of a first stage in its part: buffers of an objective, adaptive weights, names and seeds of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from training_runs import TINY

from ldm_core.catalog import Catalog
from ldm_core.contracts import StageBatch, StageLoss, StageObjective
from ldm_core.testing.stages.toys import ToyStage
from ldm_core.training import workflow
from ldm_core.training.checkpoints.snapshot import Restore, part_tensors
from ldm_core.training.engine import world
from ldm_core.training.feed.loader import MicroBatch
from ldm_core.training.feed.order import Place
from ldm_core.training.first_stage.parts import Training
from ldm_core.training.first_stage.task import FirstStageTask, Objectives


class Running(nn.Module, StageObjective):
    """Squares, divided by a running mean of theirs: a buffer that each loss replaces."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(1))
        self.register_buffer("last", torch.zeros(1), persistent=False)

    def loss(self, stage: Any, batch: StageBatch) -> StageLoss:
        made = stage.reconstruct(batch.images, streams=batch.streams("first_stage"))
        error = (made.image - batch.images).square().mean()
        self.last = error.detach()[None]
        self.mean = 0.9 * self.mean + 0.1 * self.last
        return StageLoss(error / self.mean.mean(), {"loss": error.detach()}, made.image.detach(), made)


def task_of(objective: Any, others: Mapping[str, Any] | None = None, **trainer: Any) -> FirstStageTask:
    plain = {**TINY, "first_stage_trainer": {"steps": 6, "images_per_step": 4, "precision": "fp32", **trainer}}
    recipe, _ = workflow.prepare(plain, Catalog.discover())
    here = world.start()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        stage = ToyStage(3)
    return FirstStageTask(
        stage, Objectives(objective, others or {}), recipe, here, Training(recipe, here, lambda n: [])
    )


def train(task: FirstStageTask, steps: range) -> None:
    for step in steps:
        images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        task.parts[0].set_lr(1e-2)
        task.step(step, [MicroBatch({"image": images}, tuple(Place(0, i, False) for i in range(4)))], measure=True)


def tensors(task: FirstStageTask) -> dict[str, Tensor]:
    return {k: v.clone() for part in task.parts for k, v in part_tensors(part)}


def test_a_buffer_that_the_loss_replaces_is_in_the_checkpoint_and_comes_back() -> None:
    whole, half = task_of(Running()), task_of(Running())
    train(whole, range(6))
    train(half, range(3))
    kept = tensors(half)
    assert kept["autoencoder/state/loss.mean"] != 1.0
    assert "autoencoder/state/loss.last" not in kept, "it says of itself that it does not travel"
    again = Running()
    task = task_of(again)
    restore = Restore(task.parts, {"autoencoder": 3})
    restore.take(kept.items())
    restore.finish()
    assert torch.equal(again.mean, kept["autoencoder/state/loss.mean"])
    train(task, range(3, 6))
    ended, resumed = tensors(whole), tensors(task)
    assert ended.keys() == resumed.keys() and all(torch.equal(ended[k], resumed[k]) for k in ended)


def test_buffers_move_with_the_part() -> None:
    objective = Running()
    part = task_of(objective).parts[0]
    part.module.double()
    assert objective.mean.dtype == torch.float64 and objective.last.dtype == torch.float64
