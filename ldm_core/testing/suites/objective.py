"""The conformance suite of objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ldm_core.contracts import CondSpec, LossOutput, Objective
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.testing import batches, toys
from ldm_core.testing.base import same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import TensorSuite

_SPEC = CondSpec(crossattn=6, vector=5)


class ObjectiveSuite(TensorSuite):
    """Subclass it, set `component` and `settings`. It is tried with the core's model around a toy denoiser."""

    kind = "objective"
    protocol: ClassVar[type] = Objective

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Any]:
        """Latents, a bundle, and a seed a row."""
        return {
            "x0": batches.normal(rows, self.latent.shape(size), "x0"),
            "cond": Cond(
                crossattn=batches.normal(rows, (3, _SPEC.crossattn), "tokens"),
                vector=batches.normal(rows, (_SPEC.vector,), "vector"),
            ),
            "seeds": toys.seeds(rows),
        }

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """The loss of each example."""
        model = toys.toy_model(self.latent, _SPEC).to(inputs["x0"].device)
        return {"value": self._loss(component, model, inputs).value}

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
        out = self._loss(self.build(), model, given)
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

    def _loss(self, objective: Any, model: Any, given: Any) -> Any:
        streams = Streams(given["seeds"], given["x0"].device)
        return objective.loss(model, given["x0"], given["cond"], streams=streams)
