"""Mistakes in stage objectives, and the standard test that finds each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from planted import Empty, Mistake, assert_found, faults_of, mistakes
from torch import Tensor, nn

from ldm_core.contracts import Site, StageBatch, StageLoss, StageObjective, StageTraining
from ldm_core.errors import ConfigError
from ldm_core.testing import StageObjectiveSuite


class Critic(nn.Module):
    """An opponent: it tells pictures from reconstructions by their mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(3, 1)

    def active(self, step: int) -> bool:
        return step >= 2

    def forward(self, batch: StageBatch, made: StageLoss) -> StageLoss:
        real, fake = (self.score(x.mean((2, 3))).mean() for x in (batch.images, self.shown(made)))
        return StageLoss((1 - real).relu() + (1 + fake).relu(), {"critic": real.detach()})

    def shown(self, made: StageLoss) -> Tensor:
        assert made.image is not None
        return made.image


class Right(nn.Module, StageObjective):
    """Squares, a learned weight, a running mean that the loss is divided by, and a critic."""

    critic: type[Critic] = Critic

    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))
        self.mean = torch.ones(())

    def prepare(self, stage: Any, training: StageTraining) -> None:
        if "encoder_layer" not in dir(stage):
            raise ConfigError(f"{type(stage).__name__} has no encoder_layer")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.opponents = {"critic": self.critic()}

    def loss(self, stage: Any, batch: StageBatch) -> StageLoss:
        made = stage.reconstruct(batch.images, streams=batch.streams("first_stage"))
        error = (self.noised(made.image, batch) - batch.images).square().mean()
        value = error / self.mean / self.scale.exp().mean() + self.scale.mean() + 0.01 * made.regularization
        return StageLoss(self.told(value), self.logs(value, error), made.image.detach(), made)

    def noised(self, image: Tensor, batch: StageBatch) -> Tensor:
        return image + 0.01 * batch.streams("noise").normal(tuple(image.shape))

    def told(self, value: Tensor) -> Tensor:
        return value

    def logs(self, value: Tensor, error: Tensor) -> Mapping[str, Tensor]:
        return {"loss": value.detach(), "error": error.detach()}

    def after_step(self, step: int, images: Any, logs: Any) -> Mapping[str, Tensor]:
        self.mean = 0.9 * self.mean + 0.1 * torch.stack([found["error"] for found in logs]).mean()
        return {}

    def state(self) -> Mapping[str, Tensor]:
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.mean = state["mean"]


class Detaches(Right):
    def noised(self, image: Tensor, batch: StageBatch) -> Tensor:
        return super().noised(image.detach(), batch)


class OfEach(Right):
    def told(self, value: Tensor) -> Tensor:
        return value.expand(3)


class GraphInLogs(Right):
    def logs(self, value: Tensor, error: Tensor) -> Mapping[str, Tensor]:
        return {"loss": value, "error": error.detach()}


class DrawsByItself(Right):
    def noised(self, image: Tensor, batch: StageBatch) -> Tensor:
        return image + 0.01 * torch.randn_like(image)


class ForgetsItsMean(Right):
    state = None  # type: ignore[assignment]
    load_state = None  # type: ignore[assignment]


class InABuffer(Right):
    """The mean is a buffer that each loss replaces: state() can do without it."""

    state = None  # type: ignore[assignment]
    load_state = None  # type: ignore[assignment]

    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        del self.mean
        self.register_buffer("mean", torch.ones(()))

    def loss(self, stage: Any, batch: StageBatch) -> StageLoss:
        made = super().loss(stage, batch)
        self.mean = 0.9 * self.mean + 0.1 * made.logs["error"]
        return made

    def after_step(self, step: int, images: Any, logs: Any) -> Mapping[str, Tensor]:
        return {}


class RegistersItLate(InABuffer):
    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        del self.mean
        self.mean = torch.ones(())

    def loss(self, stage: Any, batch: StageBatch) -> StageLoss:
        made = super().loss(stage, batch)
        if "mean" not in self._buffers:
            mean = self.mean
            del self.mean
            self.register_buffer("mean", mean)
        return made


class NotInTheState(InABuffer):
    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.register_buffer("mean", torch.ones(()), persistent=False)


class KeepsTheStage(Right):
    def prepare(self, stage: Any, training: StageTraining) -> None:
        super().prepare(stage, training)
        self.stage = stage


class RegistersTheCritic(Right):
    def prepare(self, stage: Any, training: StageTraining) -> None:
        super().prepare(stage, training)
        self.own = self.opponents["critic"]


class IdleParameter(Right):
    def __init__(self, config: Empty, site: Site) -> None:
        super().__init__(config, site)
        self.idle = nn.Parameter(torch.zeros(1))


class AsksLate(Right):
    """Finds out in the first step that the stage lacks a name."""

    def prepare(self, stage: Any, training: StageTraining) -> None:
        super().prepare(_Offers(), training)

    def loss(self, stage: Any, batch: StageBatch) -> StageLoss:
        stage.encoder_layer  # noqa: B018
        return super().loss(stage, batch)


class _Offers:
    encoder_layer = None


class Reaching(Critic):
    def shown(self, made: StageLoss) -> Tensor:
        assert made.reconstruction is not None
        return made.reconstruction.image


class ReachesTheStage(Right):
    critic = Reaching


class Late(Critic):
    def active(self, step: int) -> bool:
        return step >= 1000


class NeverComesIn(Right):
    critic = Late


def test_a_right_objective_has_no_faults() -> None:
    assert faults_of(StageObjectiveSuite, Right) == {}
    assert faults_of(StageObjectiveSuite, InABuffer) == {}


@mistakes(
    Mistake(Detaches, "test_gradients_reach_the_stage", "no gradient reaches"),
    Mistake(OfEach, "test_gradients_reach_the_stage", "value has shape (3,), not ()"),
    Mistake(GraphInLogs, "test_logs_and_image_are_detached", "log 'loss' holds the graph"),
    Mistake(DrawsByItself, "test_equal_trainings_have_equal_bits", "draws from a global generator"),
    Mistake(ForgetsItsMean, "test_a_training_goes_on_from_its_state", "ends elsewhere"),
    Mistake(NotInTheState, "test_a_training_goes_on_from_its_state", "ends elsewhere"),
    Mistake(RegistersItLate, "test_its_state_fits_a_fresh_objective", "into a fresh objective: mean"),
    Mistake(KeepsTheStage, "test_its_parameters_are_its_own", "which is a parameter of the stage"),
    Mistake(RegistersTheCritic, "test_its_parameters_are_its_own", "which is a parameter of the opponent critic"),
    Mistake(IdleParameter, "test_its_parameters_are_its_own", "does not reach idle"),
    Mistake(AsksLate, "test_a_missing_name_is_told", "encoder_layer"),
    Mistake(ReachesTheStage, "test_an_opponent_is_trained_alone", "of the stage"),
    Mistake(NeverComesIn, "test_an_opponent_is_trained_alone", "never comes in within 12 steps"),
)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    assert_found(StageObjectiveSuite, mistake)
