"""The conformance suite of objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor, nn

from ldm_core.contracts import (
    EMPTY,
    CondSpec,
    LossContext,
    LossOutput,
    Objective,
    ObjectiveAnswers,
    ObjectiveConfig,
    Site,
    configs,
)
from ldm_core.contracts.conditioning import Cond, Conditions
from ldm_core.contracts.streams import Streams
from ldm_core.testing import batches, toys
from ldm_core.testing.base import generators, map_tensors, randomize, same, seeded
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import TensorSuite

_SPEC = CondSpec(crossattn=6, vector=5)


class ObjectiveSuite(TensorSuite):
    """Subclass it, set `component` and `settings`. It is tried with the core's model around a toy denoiser.

    An objective that reads extras is handed those of `extras`, name -> shape without the batch.
    """

    extras: ClassVar[Mapping[str, tuple[int, ...]]] = EMPTY

    kind = "objective"
    protocol: ClassVar[type] = Objective

    def site(self, size: tuple[int, ...] | None = None) -> Site:
        """The model around the objective, its conditioners' spec included."""
        return attrs.evolve(super().site(size), cond=attrs.evolve(_SPEC, extras=self.extras))

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Any]:
        """Latents, a bundle, and a seed a row."""
        return {
            "x0": batches.normal(rows, self.latent.shape(size), "x0"),
            "cond": Cond(
                crossattn=batches.normal(rows, (3, _SPEC.crossattn), "tokens"),
                vector=batches.normal(rows, (_SPEC.vector,), "vector"),
                extras={name: batches.normal(rows, shape, name) for name, shape in self.extras.items()},
            ),
            "seeds": toys.seeds(rows),
        }

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """The loss of each example."""
        model = toys.toy_model(self.latent, _SPEC).to(inputs["x0"].device)
        return {"value": self._loss(component, model, inputs).value}

    def build(
        self, overrides: Mapping[str, Any] | None = None, *, size: tuple[int, ...] | None = None, seed: int = 0
    ) -> Any:
        """As any component, then prepared for the toy model."""
        return self._prepared(super().build(overrides, size=size, seed=seed), toys.toy_model(self.latent, _SPEC))

    def _prepared(self, objective: Any, model: Any) -> Any:
        if (prepare := configs.of(ObjectiveAnswers, objective).prepare) is not None:
            with seeded(1):
                prepare(model)
        return objective

    @pytest.mark.parametrize("schedule", ["table", "cosine", "ve", "flow"])
    @pytest.mark.parametrize("parameterization", ["eps", "x0", "v", "flow"])
    @Rule(
        Objective.loss,
        "a loss per example",
        "take the mean over the axes of each example, error.flatten(1).mean(1), and not over the batch",
    )
    def test_a_loss_for_each_example(self, schedule: str, parameterization: str) -> None:
        """value (B,), float32 or better, finite and not negative, with every parameterization that fits."""
        if schedule == "flow" and parameterization == "eps":
            return  # refused by check: eps says nothing of x0 where alpha is 0
        given = self.inputs(range(3), self.sizes[0])
        model = toys.toy_model(self.latent, _SPEC, schedule=schedule, parameterization=parameterization)
        out = self._loss(self._prepared(super().build(), model), model, given)
        assert isinstance(out, LossOutput), f"loss returned {type(out).__name__}, not a LossOutput"
        assert out.value.shape == (3,), f"value has shape {tuple(out.value.shape)}, not (B,) = (3,)"
        assert out.value.dtype in (torch.float32, torch.float64), f"value is {out.value.dtype}"
        assert bool(out.value.isfinite().all()) and bool((out.value >= 0).all()), "a loss is negative or not finite"

    @Rule(Objective.loss, "Logs are detached", "log value.detach(): a scalar, or one number an example")
    def test_logs_are_detached(self) -> None:
        """Logs are scalars or (B,), without a graph."""
        given = self.inputs(range(3), self.sizes[0])
        logs = self._loss(self.build(), toys.toy_model(self.latent, _SPEC), given).logs
        for name, value in logs.items():
            assert not value.requires_grad, f"log '{name}' holds the graph"
            assert tuple(value.shape) in ((), (3,)), f"log '{name}' has shape {tuple(value.shape)}"

    @Rule(
        Objective.loss,
        "Every parameter of the model gets a gradient",
        "call model, its network or its schedule with gradients on, and detach neither F nor cond",
    )
    def test_gradients_reach_the_model(self) -> None:
        """Every parameter of the model gets a gradient, through conditioning too."""
        given = self.inputs(range(3), self.sizes[0])
        model = toys.toy_model(self.latent, _SPEC)
        tokens = given["cond"].crossattn.requires_grad_()
        self._loss(self.build(), model, given).value.mean().backward()
        lost = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
        assert not lost, f"no gradient reaches {', '.join(lost)}"
        assert tokens.grad is not None, "no gradient reaches the conditioning"

    @Rule(
        Objective.loss,
        "Times and noise come from `streams`",
        "draw by streams.uniform((B,)) and streams.normal(x0.shape)",
    )
    def test_draws_from_the_streams(self) -> None:
        """Times and noise come from the streams: equal ones repeat the loss, others change it, row by row."""
        objective, given = self.build(), self.inputs(range(2), self.sizes[0])
        first = self._quietly(objective, given)["value"]
        other = self._quietly(objective, {**given, "seeds": [given["seeds"][0], 77]})["value"]
        assert same(first[:1], other[:1]), "the loss of example 0 changed with the stream of example 1"
        assert not same(first[1:], other[1:]), "another stream gave the same loss"

    @Rule(
        Objective,
        "It leaves the model's weights and gradients",
        "write to buffers and frozen parameters of the objective alone, and draw nothing",
    )
    def test_after_step_changes_its_own_state_alone(self) -> None:
        """`after_step` leaves the model, its gradients, the objective's trained parameters and the generators alone."""
        objective, model = self.build(), toys.toy_model(self.latent, _SPEC)
        after = configs.of(ObjectiveAnswers, objective).after_step
        if after is None:
            pytest.skip("it has no after_step")
        self._loss(objective, model, self.inputs(range(2), self.sizes[0])).value.mean().backward()
        before, states = map_tensors(Tensor.clone, _not_its_own(objective, model)), generators()
        with torch.no_grad():
            for step in range(3):
                after(model, step)
        for what, values in _not_its_own(objective, model).items():
            assert same(values, before[what]), f"after_step changes {what}"
        for name, a, b in zip(("torch", "numpy", "random"), states, generators(), strict=True):
            assert same(a, b), f"after_step draws from the global generator of {name}"

    @Rule(
        Objective,
        "goes on from them",
        "keep what it learns in parameters and buffers (register_buffer), not in plain attributes",
    )
    def test_goes_on_from_its_state(self) -> None:
        """A fresh objective that is given the state dict has the same loss, also after one more step."""
        first, given = self.build(), self.inputs(range(2), self.sizes[0])
        after = configs.of(ObjectiveAnswers, first).after_step
        if after is None and not isinstance(first, nn.Module):
            pytest.skip("it has no state")
        other = toys.toy_model(self.latent, _SPEC)
        randomize(other, seed=3)
        if isinstance(first, nn.Module):
            randomize(first, seed=1)
        self._follow(first, other, 2)
        second = self.build(seed=9)
        if isinstance(first, nn.Module):
            second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
        for step in (2, 3):
            a, b = (self._quietly(objective, given)["value"] for objective in (first, second))
            assert same(a, b), "a fresh objective with its state dict has another loss"
            for objective in (first, second):
                self._follow(objective, other, 1, begin=step)

    @Rule(
        Objective,
        "by names of the model's state dict",
        "name each tensor as model.state_dict() does, denoiser.NAME, and give it that shape",
    )
    def test_gives_weights_of_the_models_names(self) -> None:
        """The tensors of `sampled` have names and shapes of the model's state dict."""
        objective, own = self.build(), toys.toy_model(self.latent, _SPEC).state_dict()
        sampled = configs.of(ObjectiveAnswers, objective).sampled
        if sampled is None:
            pytest.skip("it gives no weights")
        for name, value in sampled().items():
            assert name in own, f"'{name}' is no name of the model's state dict"
            seen = tuple(value.shape)
            assert seen == tuple(own[name].shape), f"'{name}' has shape {seen}, the model's {tuple(own[name].shape)}"

    def _follow(self, objective: Any, model: Any, steps: int, begin: int = 0) -> None:
        after = configs.of(ObjectiveAnswers, objective).after_step
        with torch.no_grad():
            for step in range(begin, begin + steps):
                if after is not None:
                    after(model, step)

    def _loss(self, objective: Any, model: Any, given: Any) -> Any:
        streams, more = Streams(given["seeds"], given["x0"].device), {}
        if configs.of(ObjectiveConfig, self.config()).needs_context:
            conditions = Conditions({"toy": given["cond"]}, {"toy": given["cond"].map(torch.zeros_like)})
            more = {"context": LossContext(conditions, {"moments": given["x0"]}, 1, 10)}
        return objective.loss(model, given["x0"], given["cond"], streams=streams, **more)


def _not_its_own(objective: Any, model: nn.Module) -> dict[str, dict[str, Any]]:
    """All that `after_step` leaves alone, by words for it."""
    named = dict(objective.named_parameters()) if isinstance(objective, nn.Module) else {}
    trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    return {
        "the model's weights": dict(model.state_dict()),
        "the model's gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
        "the objective's trained parameters": trained,
        "the gradients of the objective": {name: parameter.grad for name, parameter in trained.items()},
    }
