"""Standard tests of parts that serve runs of a sampler, several at once: guidances and adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ldm_core.contracts import (
    Adapter,
    Cond,
    Conditions,
    CondSpec,
    Estimate,
    Guidance,
    GuidanceConfig,
    NoiseSchedule,
    Predict,
    SamplingRun,
    configs,
)
from ldm_core.contracts.run import in_run
from ldm_core.model.diffusion import Model
from ldm_core.model.steps import Steps
from ldm_core.sampling.run import guided_run
from ldm_core.testing import batches, toys
from ldm_core.testing.base import Suite, largest_difference, randomize, same
from ldm_core.testing.rules import Rule
from ldm_core.testing.tensors import TensorSuite

SPEC = CondSpec(crossattn=6, vector=5)
"""The conditioning around a guidance."""
OF_CONDITIONERS = ("caption", "class_label")
"""The keys that conditioners around a guidance read."""
TIMES = torch.tensor([900.0, 700.0, 500.0, 300.0, 100.0], dtype=torch.float64)
"""The levels of the runs, of a table of 1000."""


def steps_of(model: Model, guidance: Guidance, conditions: Conditions, x: Tensor) -> Iterator[Tensor]:
    """x (B, C, *s) after each step of one run down :data:`TIMES` by Euler's rule: no step before it is asked for."""
    with guided_run(model, guidance, conditions, TIMES) as (denoise, on_step):
        steps = Steps(denoise, TIMES, model.schedule, None, on_step)
        for i in steps:
            x0 = steps.x0(i, x)
            x = steps.done(i, steps.euler(i, x, x0), x0)
            yield x


def whole(run: Iterator[Tensor]) -> Tensor:
    """The last x of a run."""
    with torch.no_grad():
        return list(run)[-1]


def interleaved(runs: Sequence[Iterator[Tensor]]) -> list[Tensor]:
    """The last x of each run, a step of each in turn."""
    with torch.no_grad():
        return list(list(zip(*runs, strict=True))[-1])


class GuidanceRuns(TensorSuite):
    """The promises of a guidance over the steps of a run."""

    def conditions(self, inputs: Any) -> Conditions:
        """The run's conditioning."""
        raise AssertionError(f"{type(self).__name__} does not say what a run is conditioned on")

    def network(self) -> Model:
        """The toy model that is guided; it predicts the noise."""
        return toys.toy_model(self.latent, SPEC)

    @Rule(
        Guidance,
        "Nothing is kept on it between calls",
        "keep it by conditions.run.state(self, make), and do without where conditions.run is None",
    )
    def test_a_run_leaves_nothing_behind(self) -> None:
        """The same run twice, and once more after one that was cut off, has the same bits; so has a fresh guidance."""
        guidance = self.build()
        first = whole(self._run(guidance))
        assert same(first, whole(self._run(guidance))), "the same run a second time has other bits"
        with torch.no_grad():
            cut = self._run(guidance)
            next(cut)
            cut.close()  # type: ignore[attr-defined]
        assert same(first, whole(self._run(guidance))), "a run after one that was cut off has other bits"
        assert same(first, whole(self._run(self.build()))), "a fresh guidance gives other bits"

    @Rule(
        Guidance,
        "Nothing is kept on it between calls",
        "keep it by conditions.run.state(self, make): each run has its own, also where several take turns",
    )
    def test_runs_do_not_disturb_each_other(self) -> None:
        """Two runs that take turns have the bits of each alone."""
        guidance, rows = self.build(), (range(2), range(5, 7))
        alone = [whole(self._run(guidance, each)) for each in rows]
        found = interleaved([self._run(guidance, each) for each in rows])
        for i, (one, other) in enumerate(zip(alone, found, strict=True)):
            assert same(one, other), f"run {i} has other bits beside another run than alone"

    @Rule(
        Guidance,
        "the config lists their names in `branch_options`",
        "name each option in branch_options, and make the branch by conditions.with_options: one object a run",
    )
    def test_options_of_branches_are_named(self) -> None:
        """Options of the branches are those that the config names; a run has one bundle for each."""
        guidance, named = self.build(), set(configs.of(GuidanceConfig, self.config()).branch_options)
        seen: list[Cond] = []

        class Spy(Guidance):
            def guide(
                self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
            ) -> Estimate:
                def spy(x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Estimate]:
                    seen.extend(branches)
                    return predict(x, t, branches)

                made: Estimate = guidance.guide(spy, x, t, conditions, schedule)
                return made

        whole(self._run(Spy()))
        with_options = {id(cond): cond for cond in seen if cond.options}
        unnamed = sorted({name for cond in with_options.values() for name in cond.options} - named)
        assert not unnamed, f"branches have the options {', '.join(unnamed)}, which branch_options lacks"
        bundles = [(cond.options, sorted(map(id, cond.flat().values()))) for cond in with_options.values()]
        again = [one[0] for i, one in enumerate(bundles) if one in bundles[:i]]
        assert not again, f"a bundle with the options {dict(again[0])} is made anew at each step"

    @Rule(
        Guidance,
        "says in `reads` which inputs of an image",
        "name in reads each key that guide takes from conditions.batch beside the conditioners' own, and no other",
    )
    def test_reads_what_it_declares(self) -> None:
        """The keys taken from the run's batch are those of `reads`, and of the conditioners, over a whole run."""
        given, reads = self.inputs(range(2), self.sizes[0]), set(configs.of(GuidanceConfig, self.config()).reads)
        lacking = sorted(reads - given["batch"].keys())
        assert not lacking, f"the test's batch has no {', '.join(lacking)}: extend it by inputs()"
        recording = batches.RecordingBatch(given["batch"])
        conditions = self.conditions({**given, "batch": recording})
        whole(steps_of(self.network(), self.build(), conditions, given["x"]))
        touched = recording.touched & given["batch"].keys()
        assert not (more := sorted(touched - reads - set(OF_CONDITIONERS))), (
            f"guide takes {', '.join(more)}, not in reads"
        )
        assert not (idle := sorted(reads - touched)), f"reads names {', '.join(idle)}, never taken from the batch"

    def _run(self, guidance: Guidance, rows: Sequence[int] = range(2)) -> Iterator[Tensor]:
        given = self.inputs(rows, self.sizes[0])
        return steps_of(self.network(), guidance, self.conditions(given), given["x"])


class _TwoBranches(Guidance):
    def guide(
        self, predict: Predict, x: Tensor, t: Tensor, conditions: Conditions, schedule: NoiseSchedule
    ) -> Estimate:
        null, cond = predict(x, t, [conditions.null, conditions.cond])
        return Estimate(null.x0 + 2 * (cond.x0 - null.x0))


class AdapterRuns(Suite):
    """The promises of an adapter over the steps of a run, and beside other calls of the model."""

    def cond(self, rows: Sequence[int]) -> Cond:
        """The bundle that reaches the model."""
        raise AssertionError(f"{type(self).__name__} does not say what reaches the model")

    def model(self) -> Model:
        """The model to adapt, its weights the same each time."""
        raise AssertionError(f"{type(self).__name__} does not say what is adapted")

    @Rule(
        Adapter,
        "they leave nothing behind that another run could see",
        "keep what a run needs by run.state(self, make), and let end(run) take back what begin(run) did",
    )
    def test_a_run_leaves_nothing_behind(self) -> None:
        """The same run twice, and once more after one that was cut off, has the same bits; so has a call between."""
        model = self.model().beside({"it": self._learned()})
        estimate, state = self._estimate(model), {k: v.clone() for k, v in model.state_dict().items()}
        first = self._sampled(model)
        assert same(first, self._sampled(model)), "the same run a second time has other bits"
        with torch.no_grad():
            cut = self._run(model)
            next(cut), next(cut)
            cut.close()  # type: ignore[attr-defined]
        assert same(first, self._sampled(model)), "a run after one that was cut off has other bits"
        assert same(estimate, self._estimate(model)), "after a run, a call outside of runs has other bits"
        assert same(state, dict(model.state_dict())), "a run changed the state"

    @Rule(
        Adapter,
        "What it keeps from step to step it keeps by ``run.state``",
        "keep it by run.state(self, make): each run has its own, also where several take turns",
    )
    def test_runs_do_not_disturb_each_other(self) -> None:
        """Two runs that take turns have the bits of each alone."""
        model, rows = self.model().beside({"it": self._learned()}), (range(2), range(5, 7))
        alone = [self._sampled(model, each) for each in rows]
        found = interleaved([self._run(model, each) for each in rows])
        for i, (one, other) in enumerate(zip(alone, found, strict=True)):
            assert same(one, other), f"run {i} has other bits beside another run than alone"

    @Rule(
        Adapter,
        "it stashes none of them on a module",
        "ask ldm_core.contracts.evaluation() in the hook that needs it, and hand nothing on by way of a module or self",
    )
    def test_calls_do_not_meet_in_the_modules(self) -> None:
        """A call of the model during which others begin and end, as threads do, has the bits of one alone."""
        model = self.model().beside({"it": self._learned()})
        alone = self._estimate(model)
        x, t = batches.normal(range(5, 6), self.latent.shape(self.sizes[0]), "other"), torch.full((1,), 100.0)
        cond, other = self.cond(range(5, 6)), SamplingRun(TIMES)  # of one row: it is called for many layers
        other.step = 2

        def meanwhile() -> None:
            with in_run(other):
                model(x, t.double(), cond)

        with other:
            meanwhile()
            handles = _in_between(model, self.model(), meanwhile)
            found = self._estimate(model)
        for handle in handles:
            handle.remove()
        assert same(alone, found), "a call has other bits if another one comes in between"

    def _run(self, model: Model, rows: Sequence[int] = range(2)) -> Iterator[Tensor]:
        cond = self.cond(rows)
        given = Conditions({"all": cond}, {"all": cond.map(torch.zeros_like)})
        return steps_of(model, _TwoBranches(), given, batches.normal(rows, self.latent.shape(self.sizes[0]), "x"))

    def _sampled(self, model: Model, rows: Sequence[int] = range(2)) -> Tensor:
        return whole(self._run(model, rows))

    def _matters(self, model: Model, adapted: Model) -> bool:
        """True if an estimate or a run of the adapted model is another one."""
        return any(largest_difference(f(model), f(adapted)) > 1e-6 for f in (self._estimate, self._sampled))

    def _learned(self) -> Any:
        adapter = self.build()
        if isinstance(adapter, nn.Module):
            if not list(adapter.parameters()):
                scratch = self.model()
                adapter.attach(scratch)  # type: ignore[operator]
                adapter.detach()  # type: ignore[operator]
            randomize(adapter, 5)
        return adapter

    def _given(self) -> tuple[Tensor, Tensor]:
        x = batches.normal(range(2), self.latent.shape(self.sizes[0]), "x")
        return x, torch.tensor([300.0, 700.0], dtype=torch.float64)

    def _estimate(self, model: Model) -> Tensor:
        with torch.no_grad():
            x, t = self._given()
            return model(x, t, self.cond(range(2))).x0


def _in_between(model: Model, plain: Model, call: Callable[[], None]) -> list[RemovableHandle]:
    """Let `call` come in between in a call of `model`, at the first layer after each moment at which its adapter may
    have done something: a module that is otherwise than in the `plain` model begins or ends.

    A call at every layer finds no more, and takes many times as long.
    """
    before = dict(plain.named_modules())
    layers = [module for module in model.modules() if not list(module.children())]
    adapted = [module for name, module in model.named_modules() if _differs(module, before.get(name))] or layers
    due = busy = False

    def mark(*_: object) -> None:
        nonlocal due
        due = due or not busy

    def begin(*_: object) -> None:
        nonlocal due, busy
        if due and not busy:
            busy = True
            call()
            due = busy = False

    handles = [
        register(mark) for each in adapted for register in (each.register_forward_pre_hook, each.register_forward_hook)
    ]
    return [*handles, *(layer.register_forward_pre_hook(begin) for layer in layers)]


def _differs(module: nn.Module, other: nn.Module | None) -> bool:
    """True for a module that is new, of another class, has hooks, or has a call of its own."""
    return type(module) is not type(other) or bool(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    )
