"""The conformance suite of guidances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from ldm_core.cond import Cond, Conditions
from ldm_core.contracts import CondSpec, Estimate, Guidance
from ldm_core.diffusion import make_predict
from ldm_core.testing import batches, toys
from ldm_core.testing.base import TensorSuite, largest_difference

_SPEC = CondSpec(crossattn=6, vector=5)


class GuidanceSuite(TensorSuite):
    """Subclass it, set `component` and `settings`.

    The run around it has two conditioners, `tokens` (3 tokens, its null 1 token) and `vector`. Where the config has a
    field `scale`, scale 1 must give the conditional estimate and scale 0 the unconditional one.
    """

    kind = "guidance"
    protocol: ClassVar[type] = Guidance

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Any]:
        """x, t and both conditioners' bundles with their nulls."""
        return {
            "x": batches.normal(rows, self.latent.shape(size), "x"),
            "t": torch.tensor([float(400 + 37 * i) for i in rows], dtype=torch.float64),
            "conds": {
                "tokens": Cond(crossattn=batches.normal(rows, (3, _SPEC.crossattn), "tokens")),
                "vector": Cond(vector=batches.normal(rows, (_SPEC.vector,), "vector")),
            },
            "nulls": {
                "tokens": Cond(crossattn=torch.full((len(rows), 1, _SPEC.crossattn), 0.2)),
                "vector": Cond(vector=torch.zeros(len(rows), _SPEC.vector)),
            },
        }

    def run(self, component: Any, inputs: Any, *, together: bool = True) -> dict[str, Tensor]:
        """One guided estimate of a toy model, its branches batched or one by one."""
        model = toys.toy_model(self.latent, _SPEC).to(inputs["x"].device)
        estimate = component.guide(
            make_predict(model, together=together),
            inputs["x"],
            inputs["t"],
            Conditions(inputs["conds"], inputs["nulls"]),
            model.schedule,
        )
        assert isinstance(estimate, Estimate), f"guide returned {type(estimate).__name__}, not an Estimate"
        return {"x0": estimate.x0}

    def test_shape_and_dtype(self) -> None:
        """The estimate is as x: its shape, float32."""
        given = self.inputs(range(2), self.sizes[0])
        x0 = self._quietly(self.build(), given)["x0"]
        assert x0.shape == given["x"].shape, f"x0 is {tuple(x0.shape)} for x {tuple(given['x'].shape)}"
        assert x0.dtype == torch.float32, f"x0 is {x0.dtype}, not float32"

    def test_scale_1_is_the_conditional_estimate(self) -> None:
        """Scale 1 changes nothing."""
        self._check_scale(1.0, "cond")

    def test_scale_0_is_the_unconditional_estimate(self) -> None:
        """Scale 0 leaves no condition."""
        self._check_scale(0.0, "null")

    def test_batched_is_one_by_one(self) -> None:
        """Whether the core evaluates branches together or one by one changes nothing."""
        guidance, given = self.build(), self.inputs(range(3), self.sizes[0])
        with torch.no_grad():
            a = self.run(guidance, given, together=True)["x0"]
            b = self.run(guidance, given, together=False)["x0"]
        assert largest_difference(a, b) <= self.atol, "batched and one by one differ"

    def test_needs_null_is_true(self) -> None:
        """The config's `needs_null` says whether the model is called without conditions."""
        guidance, given = self.build(), self.inputs(range(2), self.sizes[0])
        needs = getattr(self.config(), "needs_null", None)
        assert isinstance(needs, bool), "the config has no needs_null (bool)"
        conditions = Conditions(given["conds"], given["nulls"])
        nulls = {id(v) for null in given["nulls"].values() for v in null.flat().values()}
        partial = {id(conditions.pick(p)) for p in ((), ("tokens",), ("vector",))}
        model = toys.toy_model(self.latent, _SPEC)
        predict = make_predict(model)
        used: list[bool] = []

        def spy(x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Estimate]:
            used.extend(id(b) in partial or any(id(v) in nulls for v in b.flat().values()) for b in branches)
            return predict(x, t, branches)

        with torch.no_grad():
            guidance.guide(spy, given["x"], given["t"], conditions, model.schedule)
        assert used, "the guidance never asked the model"
        assert needs or not any(used), "needs_null is False, yet a branch without conditions was asked for"

    def test_gradients_pass(self) -> None:
        """Under no_grad with enable_grad inside, as a gradient guidance runs, x has a finite gradient."""
        guidance, given = self.build(), self.inputs(range(2), self.sizes[0])
        with torch.no_grad(), torch.enable_grad():
            x = given["x"].clone().requires_grad_()
            x0 = self.run(guidance, {**given, "x": x})["x0"]
            assert x0.requires_grad, "the estimate has no gradient: detached, or inference mode inside"
            (gradient,) = torch.autograd.grad(x0.square().sum(), x)
        assert bool(gradient.isfinite().all()) and float(gradient.abs().sum()) > 0, "the gradient is 0 or not finite"

    def _check_scale(self, scale: float, branch: str) -> None:
        if not any(a.name == "scale" for a in attrs.fields(type(self.config()))):
            pytest.skip("this guidance has no scale")
        given = self.inputs(range(2), self.sizes[0])
        model = toys.toy_model(self.latent, _SPEC)
        expected: Cond = getattr(Conditions(given["conds"], given["nulls"]), branch)
        with torch.no_grad():
            got = self.run(self.build({"scale": scale}), given)["x0"]
            want = model(given["x"], given["t"], expected).x0
        far = largest_difference(got, want)
        assert far <= self.atol, f"scale {scale:g} is off by {far:.2g} from the {branch} branch"
