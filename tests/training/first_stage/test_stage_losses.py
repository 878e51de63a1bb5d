"""The losses of a first stage in its part: buffers of an objective, adaptive weights, names and seeds of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from training_runs import TINY

from ldm_core.catalog import Catalog
from ldm_core.contracts import AuxiliaryLossConfig, Reconstruction, StageBatch, StageLoss, StageObjective
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ComponentError
from ldm_core.recipe.recipe import Part as RecipePart
from ldm_core.testing.stages.toys import ToyStage
from ldm_core.training import workflow
from ldm_core.training.checkpoints.snapshot import Restore, part_tensors
from ldm_core.training.engine import world
from ldm_core.training.engine.loss_scale import LossScale
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


def task_of(objective: Any, others: Mapping[str, Any] | None = None, kind: type[ToyStage] = ToyStage) -> FirstStageTask:
    plain = {**TINY, "first_stage_trainer": {"steps": 6, "images_per_step": 4, "precision": "fp32"}}
    recipe, _ = workflow.prepare(plain, Catalog.discover())
    here = world.start()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        stage = kind(3)
    return FirstStageTask(
        stage, Objectives(objective, others or {}), recipe, here, Training(recipe, here, lambda n: [])
    )


def pictures(seed: int) -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def train(task: FirstStageTask, steps: range) -> None:
    for step in steps:
        task.parts[0].set_lr(1e-2)
        task.step(
            step, [MicroBatch({"image": pictures(step)}, tuple(Place(0, i, False) for i in range(4)))], measure=True
        )


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


@attrs.frozen(kw_only=True)
class Adaptive(AuxiliaryLossConfig):
    weight: float = 1.0
    adaptive: bool = True


class Spread:
    """The spread of the latents."""

    def loss(self, images: Tensor, z: Tensor, reconstruction: Any) -> Tensor:
        return z.square().mean()


class _Rounded(torch.autograd.Function):
    """Half precision on the way back alone: gradients under 2**-25 become 0, and over 65504 infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.half().float()


class Half(ToyStage):
    """Gradients on their way to the encoder pass half precision, for which they are too small."""

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        made = super().reconstruct(x, streams=streams)
        assert made.z is not None
        image, z = (_Rounded.apply(value * 1e6) / 1e6 for value in (made.image, made.z))
        return made._replace(image=image, z=z)


@pytest.mark.parametrize("scale", [1.0, 2.0**24, 2.0**100])
def test_an_adaptive_weight_is_taken_of_scaled_gradients(scale: float) -> None:
    spread = RecipePart(kind="auxiliary_loss", use="spread", config=Adaptive())
    batch = StageBatch(pictures(3), 0, lambda purpose: Streams([1, 2, 3, 4], torch.device("cpu")))

    def weight(stage: type[ToyStage], scale: LossScale | None) -> float:
        part = task_of(Running(), {"spread": (spread, Spread())}, stage).parts[0]
        part.loss_scale = scale
        return float(part.module(batch).logs["spread_weight"])

    exact = weight(ToyStage, None)
    assert 0.01 < exact < 100
    assert weight(ToyStage, LossScale(initial=2.0**24)) == exact, "a power of two changes no bit"
    found = weight(Half, LossScale(initial=scale))
    if scale == 1.0:
        assert found == 0.0, "too small to be seen"
    elif scale == 2.0**24:
        assert found == pytest.approx(exact, rel=1e-2)
    else:
        assert found == 1.0, "the backward pass overflows as well, and the scale is lowered"


def test_an_opponents_name_is_its_own() -> None:
    class Taking(Running):
        opponents: Mapping[str, Any] = {"autoencoder": nn.Linear(1, 1)}

    with pytest.raises(ComponentError, match=r"Taking calls an opponent 'autoencoder', .*; give it another"):
        task_of(Taking())


def test_a_stage_objective_is_prepared_from_the_recipes_seed() -> None:
    class Drawing(Running):
        def prepare(self, stage: Any, training: Any) -> None:
            self.drawn = nn.Parameter(torch.randn(3))

    torch.manual_seed(1)
    first = task_of(objective := Drawing())
    state = torch.get_rng_state()
    torch.manual_seed(2)
    torch.rand(5)
    again = task_of(Drawing())
    one, other = tensors(first), tensors(again)
    assert "autoencoder/state/loss.drawn" in one and all(torch.equal(one[k], other[k]) for k in one)
    assert torch.equal(state, torch.Generator().manual_seed(1).get_state()), "it leaves the generator as it was"
    assert objective.drawn.std() > 0
