"""The conformance suite of guidances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from ldm_core.contracts import Estimate, Guidance, GuidanceConfig, Site, configs
from ldm_core.contracts.conditioning import Cond, Conditions
from ldm_core.model.diffusion import make_predict
from ldm_core.testing import batches, toys
from ldm_core.testing.base import largest_difference
from ldm_core.testing.promises.runs import SPEC, GuidanceRuns
from ldm_core.testing.rules import Rule


class GuidanceSuite(GuidanceRuns):
    """Subclass it, set `component` and `settings`.

    The run around it has two conditioners, `tokens` (3 tokens, its null 1 token) and `vector`, and a batch with a
    `caption` and a `class_label` an example, for a second model; the network predicts the noise. Fields `scale`,
    `scales`, `interval` and `rescale` are tried as :class:`~ldm_core.contracts.Guidance` says.
    """

    kind = "guidance"
    protocol: ClassVar[type] = Guidance

    def site(self, size: tuple[int, ...] | None = None) -> Site:
        """Size, latents, and the toy model's parameterization."""
        return attrs.evolve(super().site(size), parameterization=toys.parameterizations()["eps"])

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> dict[str, Any]:
        """x, t and both conditioners' bundles with their nulls."""
        return {
            "x": batches.normal(rows, self.latent.shape(size), "x"),
            "t": torch.tensor([float(400 + 37 * i) for i in rows], dtype=torch.float64),
            "conds": {
                "tokens": Cond(crossattn=batches.normal(rows, (3, SPEC.crossattn), "tokens")),
                "vector": Cond(vector=batches.normal(rows, (SPEC.vector,), "vector")),
            },
            "nulls": {
                "tokens": Cond(crossattn=torch.full((len(rows), 1, SPEC.crossattn), 0.2)),
                "vector": Cond(vector=torch.zeros(len(rows), SPEC.vector)),
            },
            "batch": {
                "caption": [f"example {i}" for i in rows],
                "class_label": torch.tensor([i % 2 for i in rows]),
            },
        }

    def conditions(self, inputs: Any) -> Conditions:
        """The run's conditioning."""
        return Conditions(inputs["conds"], inputs["nulls"], batch=inputs["batch"])

    def run(self, component: Any, inputs: Any, *, together: bool = True) -> dict[str, Tensor]:
        """One guided estimate of a toy model, its branches batched or one by one."""
        model = self.network().to(inputs["x"].device)
        estimate = component.guide(
            make_predict(model, together=together),
            inputs["x"],
            inputs["t"],
            self.conditions(inputs),
            model.schedule,
        )
        assert isinstance(estimate, Estimate), f"guide returned {type(estimate).__name__}, not an Estimate"
        return {"x0": estimate.x0}

    @Rule(Guidance.guide, "whose x0 has x's shape, float32", "give Estimate(x0) of x's shape, computed in float32")
    def test_shape_and_dtype(self) -> None:
        """The estimate is as x: its shape, float32."""
        given = self.inputs(range(2), self.sizes[0])
        x0 = self._quietly(self.build(), given)["x0"]
        assert x0.shape == given["x"].shape, f"x0 is {tuple(x0.shape)} for x {tuple(given['x'].shape)}"
        assert x0.dtype == torch.float32, f"x0 is {x0.dtype}, not float32"

    @Rule(
        Guidance,
        "`scale` 1 gives the conditional estimate",
        "mix as null + scale (cond - null), so that 1 is conditional and 0 unconditional",
    )
    def test_scale_1_is_the_conditional_estimate(self) -> None:
        """Scale 1 changes nothing."""
        self._check_scale(1.0, "cond")

    @Rule(
        Guidance,
        "`scale` 1 gives the conditional estimate",
        "mix as null + scale (cond - null), so that 1 is conditional and 0 unconditional",
    )
    def test_scale_0_is_the_unconditional_estimate(self) -> None:
        """Scale 0 leaves no condition, where the guidance compares with none."""
        if self._has("scale") and not self._needs_null(self.config(scale=0.0)):
            pytest.skip("this guidance compares with something else than no condition")
        self._check_scale(0.0, "null")

    @Rule(
        Guidance.guide,
        "Nulls matter where `needs_null` is True",
        "evaluate conditions.null (or a pick without some), or say needs_null = False",
    )
    def test_another_null_is_another_estimate(self) -> None:
        """Another null (a negative prompt) changes the estimate where the guidance needs a null, and not elsewhere."""
        guidance, given = self.build(), self.inputs(range(2), self.sizes[0])
        other = {**given, "nulls": {k: c.map(lambda v: v + 0.7) for k, c in given["nulls"].items()}}
        a, b = self._quietly(guidance, given)["x0"], self._quietly(guidance, other)["x0"]
        if self._needs_null(self.config()):
            assert largest_difference(a, b) > self.atol, "the estimate does not depend on the nulls"
        else:
            assert torch.equal(a, b), "needs_null is False, and the estimate depends on the nulls"

    @Rule(
        Guidance,
        "all equal are `scale`",
        "let one value for all conditioners be one scale, in whatever order they are named",
    )
    def test_equal_scales_are_one_scale(self) -> None:
        """`scales` with one value for all conditioners, in any order, is `scale`."""
        self._require("scales")
        given = self.inputs(range(2), self.sizes[0])
        want = self._quietly(self.build({"scale": 2.5, "scales": {}}), given)["x0"]
        for names in (("tokens", "vector"), ("vector", "tokens"), ("vector",)):
            got = self._quietly(self.build({"scale": 2.5, "scales": dict.fromkeys(names, 2.5)}), given)["x0"]
            assert largest_difference(got, want) <= self.atol, f"scales of {names} differ from one scale"

    @Rule(
        Guidance,
        "outside of `interval`",
        "compare sigma / alpha of each row with the interval, and evaluate [conditions.cond] where no row lies inside",
    )
    def test_outside_its_interval_it_evaluates_the_conditional_branch_alone(self) -> None:
        """Above and below its interval it hands on the estimate of one branch, with all conditions on."""
        self._require("interval")
        given = self.inputs(range(2), self.sizes[0])
        model = self.network()
        level = model.schedule.sigma(given["t"]) / model.schedule.alpha(given["t"])
        predict, asked = make_predict(model), []

        def spy(x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Estimate]:
            asked.append(list(branches))
            return predict(x, t, branches)

        for interval in ([float(level.max()) + 0.01, None], [0.0, float(level.min()) - 0.01]):
            asked.clear()
            conditions = self.conditions(given)
            with torch.no_grad():
                guidance = self.build({"interval": interval})
                got = guidance.guide(spy, given["x"], given["t"], conditions, model.schedule).x0
                want = model(given["x"], given["t"], conditions.cond).x0
            assert len(asked) == 1 and len(asked[0]) == 1, f"evaluated outside {interval}: {asked}"
            assert asked[0][0] is conditions.cond, "the branch outside the interval is not the conditional one"
            assert largest_difference(got, want) <= self.atol, "outside the interval the estimate is changed"

    @Rule(
        Guidance,
        "outside of `interval`",
        "compare sigma / alpha of each row with the interval, and evaluate [conditions.cond] where no row lies inside",
    )
    def test_within_its_interval_it_guides_each_row_by_its_own_level(self) -> None:
        """Rows inside are guided as without an interval and rows outside are not, in one batch."""
        self._require("interval")
        given = self.inputs(range(2), self.sizes[0])
        schedule = self.network().schedule
        first, second = (schedule.sigma(given["t"]) / schedule.alpha(given["t"])).tolist()
        always = self._quietly(self.build({"interval": None}), given)["x0"]
        never = self._quietly(self.build({"interval": [10 * second, None]}), given)["x0"]
        whole = self._quietly(self.build({"interval": [0.5 * first, 2 * second]}), given)["x0"]
        assert largest_difference(whole, always) <= self.atol, "an interval around all levels changes the estimate"
        part = self._quietly(self.build({"interval": [first, None]}), given)["x0"]
        assert largest_difference(part[:1], never[:1]) <= self.atol, "the row at the lower end is guided"
        assert largest_difference(part[1:], always[1:]) <= self.atol, "the row inside is not guided"

    @Rule(Guidance, "at `rescale` 1", "scale F, each example by itself, to the deviation of the conditional F")
    def test_rescale_1_keeps_the_deviation_of_the_output(self) -> None:
        """With `rescale` 1, what the network puts out deviates as under the conditions alone; with 0, more."""
        self._require("rescale")
        given = self.inputs(range(2), self.sizes[0])
        model = self.network()
        c_skip, c_out, _ = (c.view(-1, 1, 1, 1) for c in model.coefficients(given["t"]))

        def deviation(x0: Tensor) -> Tensor:
            return ((x0.double() - c_skip * given["x"]) / c_out).flatten(1).std(1)

        with torch.no_grad():
            want = deviation(model(given["x"], given["t"], self.conditions(given).cond).x0)
        full, off = (
            deviation(self._quietly(self.build({"rescale": share, "interval": None}), given)["x0"])
            for share in (1.0, 0.0)
        )
        assert largest_difference(full, want) <= 1e-4 * float(want.max()), "the deviation is not the conditional one's"
        assert largest_difference(off, want) > 1e-3 * float(want.max()), "rescale 0 rescales"

    @Rule(
        Guidance.guide,
        "the result does not depend on that",
        "hand all branches to predict, and mix what comes back row by row",
    )
    def test_batched_is_one_by_one(self) -> None:
        """Branches that the core evaluates one by one give the same as together."""
        guidance, given = self.build(), self.inputs(range(3), self.sizes[0])
        with torch.no_grad():
            a = self.run(guidance, given, together=True)["x0"]
            b = self.run(guidance, given, together=False)["x0"]
        assert largest_difference(a, b) <= self.atol, "batched and one by one differ"

    @Rule(
        Guidance.guide,
        "wants x and t of B rows and branches of B rows each",
        "call predict(x, t, [branch, ...]) with the x and t of all rows; the core stacks the branches itself",
    )
    def test_predict_is_called_with_the_batch(self) -> None:
        """x and t keep their rows in every call of predict, and each branch has as many."""
        guidance, given = self.build(), self.inputs(range(3), self.sizes[0])
        predict, asked = make_predict(self.network()), []

        def spy(x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Estimate]:
            asked.append((len(x), tuple(t.shape), *(b.rows() for b in branches)))
            assert asked[-1] == (3, (3,), *[3] * len(branches)), (
                f"predict is called with rows {asked[-1]} for 3 examples"
            )
            return predict(x, t, branches)

        schedule = toys.schedules()["table"]
        with torch.no_grad():
            guidance.guide(spy, given["x"], given["t"], self.conditions(given), schedule)
        assert asked, "the guidance never asked the model"

    @Rule(
        Guidance,
        "says with `needs_null`",
        "give the config needs_null: bool, True where conditions.null or a pick without some is evaluated",
    )
    def test_needs_null_is_true(self) -> None:
        """The config's `needs_null` says whether the model is called without conditions."""
        guidance, given = self.build(), self.inputs(range(2), self.sizes[0])
        needs = self._needs_null(self.config())
        conditions = self.conditions(given)
        nulls = {id(v) for null in given["nulls"].values() for v in null.flat().values()}
        partial = {id(conditions.pick(p)) for p in ((), ("tokens",), ("vector",))}
        model = self.network()
        predict = make_predict(model)
        used: list[bool] = []

        def spy(x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Estimate]:
            used.extend(id(b) in partial or any(id(v) in nulls for v in b.flat().values()) for b in branches)
            return predict(x, t, branches)

        with torch.no_grad():
            guidance.guide(spy, given["x"], given["t"], conditions, model.schedule)
        assert used, "the guidance never asked the model"
        assert needs or not any(used), "needs_null is False, yet a branch without conditions was asked for"

    @Rule(Guidance.guide, "Gradients pass", "detach nothing, and enter neither no_grad nor inference_mode")
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
        self._require("scale")
        plain: dict[str, Any] = {k: v for k, v in (("scales", {}), ("interval", None)) if self._has(k)}
        given = self.inputs(range(2), self.sizes[0])
        model = self.network()
        expected: Cond = getattr(self.conditions(given), branch)
        with torch.no_grad():
            got = self.run(self.build({"scale": scale, **plain}), given)["x0"]
            want = model(given["x"], given["t"], expected).x0
        far = largest_difference(got, want)
        assert far <= self.atol, f"scale {scale:g} is off by {far:.2g} from the {branch} branch"

    @staticmethod
    def _needs_null(config: Any) -> bool:
        return configs.of(GuidanceConfig, config).needs_null

    def _has(self, field: str) -> bool:
        return any(a.name == field for a in attrs.fields(type(self.config())))

    def _require(self, field: str) -> None:
        if not self._has(field):
            pytest.skip(f"this guidance has no {field}")
