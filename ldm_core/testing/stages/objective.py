"""The conformance suite of stage objectives, tried on a small stage."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm_core.contracts import (
    StageBatch,
    StageLoss,
    StageObjective,
    StageObjectiveAnswers,
    StageTraining,
    TrainableStage,
    configs,
)
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.errors import ConfigError
from ldm_core.testing import batches
from ldm_core.testing.base import Suite, generators, same, seeded
from ldm_core.testing.rules import Rule
from ldm_core.testing.stages.toys import STEPS, OnlyAPass, ToyStage, ToyStageConfig, ToyTraining


class _Trainings(Suite):
    """Short trainings of a small stage, in the order of the core."""

    kind = "stage_objective"
    protocol: ClassVar[type] = StageObjective
    latent = ToyStageConfig().latent

    def trained(self) -> OnlyAPass:
        """A fresh stage, equal at each call."""
        with seeded(1):
            return ToyStage(self.image_channels).train()

    def prepared(self, stage: OnlyAPass) -> StageObjective:
        """A fresh objective, prepared for `stage`."""
        objective: StageObjective = self.build()
        if isinstance(objective, nn.Module):
            objective.train()
        prepare = configs.of(StageObjectiveAnswers, objective).prepare
        if prepare is not None:
            training: StageTraining = ToyTraining(self._images())
            prepare(stage, training)
        return objective

    def _images(self) -> Tensor:
        return batches.images(range(3), self.sizes[0], self.image_channels)

    def _batch(self, step: int) -> StageBatch:
        def streams(purpose: str) -> Streams:
            return Streams([mix_seed(7, purpose, step, row) for row in range(3)])

        return StageBatch(self._images(), step, streams)

    def _loss(self, objective: StageObjective, stage: OnlyAPass, step: int) -> StageLoss:
        made = objective.loss(stage, self._batch(step))
        assert isinstance(made, StageLoss), f"loss returned {type(made).__name__}, not a StageLoss"
        assert made.value.dim() == 0, f"value has shape {tuple(made.value.shape)}, not ()"
        assert made.value.dtype == torch.float32, f"value is {made.value.dtype}"
        assert bool(made.value.isfinite()), "the loss is not finite"
        return made

    @staticmethod
    def _opponents(objective: StageObjective) -> dict[str, nn.Module]:
        found: Any = configs.of(StageObjectiveAnswers, objective).opponents
        return {f"the opponent {name}": module for name, module in found.items()}

    def _train(self, steps: int, before: Mapping[str, Any] = MappingProxyType({})) -> tuple[Any, dict[str, Any]]:
        """Weights of all modules after `steps` steps, and the whole state; from the state `before`, if there is one."""
        stage = self.trained()
        objective = self.prepared(stage)
        answers = configs.of(StageObjectiveAnswers, objective)
        own = [objective] if isinstance(objective, nn.Module) else []
        groups = {"stage": [stage, *own], **{n: [m] for n, m in self._opponents(objective).items()}}
        optimizers = {n: torch.optim.Adam([p for m in ms for p in m.parameters()], lr=1e-3) for n, ms in groups.items()}
        for name, modules in groups.items() if before else ():
            for module, state in zip(modules, before[name], strict=True):
                module.load_state_dict(state)
            optimizers[name].load_state_dict(before[f"{name} optimizer"])
        if before and answers.load_state is not None:
            answers.load_state(before["own"])
        for step in range(before.get("steps", 0), steps):
            self._step(objective, stage, step, optimizers)
        held: dict[str, Any] = {"steps": steps, "own": dict(answers.state()) if answers.state is not None else {}}
        for name, modules in groups.items():
            held[name] = [{k: v.clone() for k, v in m.state_dict().items()} for m in modules]
            held[f"{name} optimizer"] = optimizers[name].state_dict()
        return {name: held[name] for name in groups}, held

    def _step(
        self, objective: StageObjective, stage: OnlyAPass, step: int, optimizers: Mapping[str, Optimizer]
    ) -> None:
        """One step as the core takes it."""
        answers, batch = configs.of(StageObjectiveAnswers, objective), self._batch(step)
        if answers.before_step is not None:
            answers.before_step(step)
        made = objective.loss(stage, batch)
        self._descend(made.value, optimizers["stage"])
        logs = dict(made.logs)
        for name, module in self._opponents(objective).items():
            opponent: Any = module
            if opponent.active(step):
                against = module(batch, made)
                self._descend(against.value, optimizers[name])
                logs.update(against.logs)
        if answers.after_step is not None:
            with torch.no_grad():
                answers.after_step(step, [batch.images], [logs])

    @staticmethod
    def _descend(value: Tensor, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


class StageObjectiveSuite(_Trainings):
    """Subclass it, set `component` and `settings`: such that all of the loss counts within the first four of twelve
    steps. `trained` may make another stage than :class:`ToyStage`."""

    @Rule(
        StageObjective.loss,
        "its loss reaches every parameter of the stage",
        "take the loss of stage.reconstruct(...).image and .regularization, and detach neither",
    )
    def test_gradients_reach_the_stage(self) -> None:
        """The loss () is float32 and finite, at the first step and later, and reaches every parameter of the stage."""
        for step in (0, STEPS - 1):
            stage = self.trained()
            made = self._loss(self.prepared(stage), stage, step)
            made.value.backward()
            gradients: Mapping[str, Tensor | None] = {n: p.grad for n, p in stage.named_parameters()}
            lost = [n for n, g in gradients.items() if g is None or not bool(g.isfinite().all())]
            assert not lost, f"at step {step} no gradient reaches {', '.join(lost)}"

    @Rule(
        StageLoss,
        "`logs`, detached tensors",
        "log value.detach() and other detached tensors; give the detached image",
    )
    def test_logs_and_image_are_detached(self) -> None:
        """Logs are finite tensors without a graph, and so is the image, of the images' shape."""
        stage = self.trained()
        made = self._loss(self.prepared(stage), stage, STEPS - 1)
        for name, value in made.logs.items():
            assert isinstance(value, Tensor), f"log '{name}' is {type(value).__name__}, not a tensor"
            assert not value.requires_grad, f"log '{name}' holds the graph"
            assert bool(value.isfinite().all()), f"log '{name}' is not finite"
        if made.image is not None:
            assert made.image.shape == self._images().shape, f"image has shape {tuple(made.image.shape)}"
            assert not made.image.requires_grad, "image holds the graph"

    @Rule(
        StageObjective.loss,
        "the same for equal weights, batch and state",
        "draw from batch.streams(purpose) alone, and make networks of your own from training.seed",
    )
    def test_equal_trainings_have_equal_bits(self) -> None:
        """Two trainings of six steps end with the same weights, and no global generator moves."""
        before = generators()
        first, again = (self._train(6) for _ in range(2))
        assert same(before, generators()), "the objective draws from a global generator"
        assert same(first[0], again[0]), "two equal trainings ended with other weights"

    @Rule(
        StageObjectiveAnswers,
        "A training that goes on from weights",
        "return from state() every tensor that the loss keeps between steps, and take them in load_state",
    )
    def test_a_training_goes_on_from_its_state(self) -> None:
        """Six steps, and three that go on in a fresh objective from weights and state, end with the same weights."""
        whole, _ = self._train(6)
        _, half = self._train(3)
        resumed, _ = self._train(6, half)
        assert same(whole, resumed), "a training that goes on from weights, optimizers and state ends elsewhere"

    @Rule(
        StageObjective,
        "are there once it is prepared, and travel in checkpoints",
        "register each buffer in __init__ or prepare, in the shape that it keeps",
    )
    def test_its_state_fits_a_fresh_objective(self) -> None:
        """Parameters and buffers after three steps, replaced ones too, have the names and shapes of a fresh one's."""
        _, half = self._train(3)
        fresh = self.prepared(self.trained())
        if not isinstance(fresh, nn.Module):
            pytest.skip("this objective is no module")
        saved, own = ({k: v.shape for k, v in s.items()} for s in (half["stage"][1], fresh.state_dict()))
        lost = sorted({name for name, _ in saved.items() ^ own.items()})
        assert not lost, f"a checkpoint does not come back into a fresh objective: {', '.join(lost)}"

    @Rule(
        StageObjective,
        "It registers neither the stage nor what it borrows or freezes",
        "hold borrowed and frozen modules in a tuple, and give an opponent's module to opponents alone",
    )
    def test_its_parameters_are_its_own(self) -> None:
        """Parameters of the stage, the objective and each opponent are disjoint, and all are trained."""
        stage = self.trained()
        objective = self.prepared(stage)
        owners = {"the stage": stage, **self._opponents(objective)}
        if isinstance(objective, nn.Module):
            owners["the objective"] = objective
        seen: dict[int, str] = {}
        for owner, module in owners.items():
            frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
            assert not frozen, f"{owner} registers frozen parameters: {', '.join(frozen[:3])}"
            for name, parameter in module.named_parameters():
                other = seen.get(id(parameter))
                assert other is None, f"{owner} registers {name}, which is a parameter of {other}"
                seen[id(parameter)] = owner
        if isinstance(objective, nn.Module) and list(objective.parameters()):
            self._loss(objective, stage, STEPS - 1).value.backward()
            lost = [n for n, p in objective.named_parameters() if p.grad is None]
            assert not lost, f"the loss does not reach {', '.join(lost)} of the objective"

    @Rule(
        StageObjectiveAnswers,
        "Opponents are modules with an optimizer each",
        "detach what the stage made, and leave requires_grad of the opponent as it was after the stage's loss",
    )
    def test_an_opponent_is_trained_alone(self) -> None:
        """Its loss reaches all of its parameters and none of the stage's; the stage's loss reaches none of its own."""
        stage = self.trained()
        objective = self.prepared(stage)
        opponents = self._opponents(objective)
        if not opponents:
            pytest.skip("this objective has no opponent")
        batch = self._batch(STEPS - 1)
        made = objective.loss(stage, batch)
        made.value.backward(retain_graph=True)  # so that an opponent that goes back into it is told so
        for name, module in opponents.items():
            touched = [n for n, p in module.named_parameters() if p.grad is not None]
            assert not touched, f"the stage's loss reaches {', '.join(touched)} of {name}"
            stage.zero_grad()
            active: Any = module
            assert active.active(STEPS - 1), f"{name} never comes in within {STEPS} steps: set it so in settings"
            module(batch, made).value.backward()
            lost = [n for n, p in module.named_parameters() if p.grad is None]
            assert not lost, f"the loss of {name} does not reach {', '.join(lost)}"
            reached = [n for n, p in stage.named_parameters() if p.grad is not None]
            assert not reached, f"the loss of {name} reaches {', '.join(reached)} of the stage"

    @Rule(
        TrainableStage,
        "An objective that lacks one says so before the training",
        "look in prepare for the names that the loss needs, and raise ConfigError with those that are missing",
    )
    def test_a_missing_name_is_told(self) -> None:
        """A stage with `reconstruct` alone is trained, or refused in `prepare` by a ConfigError with the names."""
        with seeded(1):
            stage = OnlyAPass(self.image_channels).train()
        try:
            objective = self.prepared(stage)
        except ConfigError as error:
            own = ("last_layer", "encoder_layer", "nll_reduction", "regularization_weight", "quantize")
            offered = (*own, "decode", "latent", "set_normalization")
            assert any(name in str(error) for name in offered), f"the message names nothing that is missing: {error}"
            return
        value = self._loss(objective, stage, STEPS - 1).value
        assert bool(value.isfinite()), "the loss of a stage with reconstruct alone is not finite"
