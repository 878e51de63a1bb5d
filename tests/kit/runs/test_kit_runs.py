"""What guidances and adapters promise over the steps of a run: right ones pass, and each mistake is found."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from planted import Mistake, assert_found, faults_of, mistakes
from torch import Tensor, nn

from ldm_core.contracts import Adapter, Conditions, Denoiser, Estimate, Guidance, SamplingRun, evaluation
from ldm_core.model.diffusion import Model
from ldm_core.testing import AdapterSuite, GuidanceSuite, toys
from ldm_core.testing.base import seeded

# --------------------------------------------------------------------------------------------------- guidance


@attrs.frozen(kw_only=True)
class Options:
    needs_null: bool = True
    branch_options: tuple[str, ...] = ("soft",)


class Averages(Guidance):
    """Half of the last difference weighs in, and a branch has an option."""

    def __init__(self, config: Any, site: Any) -> None:
        self.kept: dict[str, Any] = {}

    def guide(self, predict: Any, x: Tensor, t: Tensor, conditions: Conditions, schedule: Any) -> Estimate:
        null, cond = predict(x, t, [self.other(conditions), conditions.cond])
        kept = self.memory(conditions, t)
        difference = cond.x0 - null.x0 + 0.5 * kept.get("last", 0.0)
        kept["last"] = difference
        return Estimate(null.x0 + 2.0 * difference)

    def other(self, conditions: Conditions) -> Any:
        return conditions.with_options([], soft=1)

    def memory(self, conditions: Conditions, t: Tensor) -> dict[str, Any]:
        return {} if conditions.run is None else conditions.run.state(self, dict)


class OnItself(Averages):
    """Never forgets."""

    def memory(self, conditions: Conditions, t: Tensor) -> dict[str, Any]:
        return self.kept


class ForgetsAtTheTop(Averages):
    """Forgets where it thinks that a run begins, as published code does: two runs at once share it."""

    def memory(self, conditions: Conditions, t: Tensor) -> dict[str, Any]:
        if float(t[0]) >= 900:
            self.kept = {}
        return self.kept


class OnTheClass(Averages):
    shared: dict[str, Any] = {}  # noqa: RUF012

    def memory(self, conditions: Conditions, t: Tensor) -> dict[str, Any]:
        return self.shared


class Anew(Averages):
    """Another bundle at each step."""

    def other(self, conditions: Conditions) -> Any:
        return conditions.null._replace(options={"soft": 1})


class Unnamed(Averages):
    def other(self, conditions: Conditions) -> Any:
        return conditions.with_options([], hard=1)


def test_a_guidance_that_keeps_it_in_the_run_passes() -> None:
    assert not faults_of(GuidanceSuite, Averages, Options)


@mistakes(
    Mistake(OnItself, "test_a_run_leaves_nothing_behind", "the same run a second time has other bits"),
    Mistake(OnItself, "test_runs_do_not_disturb_each_other", "has other bits beside another run"),
    Mistake(ForgetsAtTheTop, "test_runs_do_not_disturb_each_other", "run 0 has other bits beside another run"),
    Mistake(OnTheClass, "test_a_run_leaves_nothing_behind", "the same run a second time has other bits"),
    Mistake(Anew, "test_options_of_branches_are_named", "{'soft': 1} is made anew at each step"),
    Mistake(Unnamed, "test_options_of_branches_are_named", "the options hard, which branch_options lacks"),
)
def test_a_mistake_of_a_guidance_over_a_run_is_found(mistake: Mistake) -> None:
    assert_found(GuidanceSuite, mistake, Options)


def test_a_guidance_that_forgets_at_the_top_passes_alone() -> None:
    faults = faults_of(GuidanceSuite, ForgetsAtTheTop, Options)
    assert "test_a_run_leaves_nothing_behind" not in faults, "one run after the other does not show it"


# ---------------------------------------------------------------------------------------------------- adapters


class Network(nn.Module, Denoiser):
    """Two layers, the second one deep enough for hooks that know neither the bundle nor the level."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Any) -> Tensor:
        return self.second(self.first(x))


class Told(Adapter, nn.Module):
    """Scales the second layer by the tokens' mean, by the level, and by what it made at the step before."""

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.handles: list[Any] = []
        self.kept: dict[str, Any] = {}

    def attach(self, model: Any) -> None:
        self.detach()
        self.handles.append(model.denoiser.second.register_forward_hook(self.after))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def begin(self, run: SamplingRun) -> None:
        self.memory(run)["steps"] = run.steps

    def end(self, run: SamplingRun) -> None:
        assert self.memory(run)["steps"] == run.steps

    def after(self, module: Any, given: Any, out: Tensor) -> Tensor:
        now = evaluation()
        assert now is not None
        kept = self.memory(now.run)
        made = out * self.factor(now.cond, now.noise_level) + 0.1 * kept.get("last", 0.0)
        if self.keeps(out):
            kept["last"] = made.detach()
        return made

    def factor(self, cond: Any, level: Tensor) -> Tensor:
        mean = cond.crossattn.mean((1, 2)) if cond.crossattn is not None else level / 1000
        return (self.weight * (1 + mean + level / 1000))[:, None, None, None]

    def keeps(self, out: Tensor) -> bool:
        return True

    def memory(self, run: SamplingRun | None) -> dict[str, Any]:
        return {} if run is None else run.state(self, dict)


class CachesOnItself(Told):
    def memory(self, run: SamplingRun | None) -> dict[str, Any]:
        return {} if run is None else self.kept


class ForgetsAtTheEnd(CachesOnItself):
    """Empties its own store around a run, which another run may be using."""

    def begin(self, run: SamplingRun) -> None:
        self.kept = {}

    def end(self, run: SamplingRun) -> None:
        self.kept = {}


class StaysSwitched(Told):
    """begin() switches it, and nobody switches it back."""

    def begin(self, run: SamplingRun) -> None:
        super().begin(run)
        self.kept["off"] = 0.5

    def factor(self, cond: Any, level: Tensor) -> Tensor:
        return super().factor(cond, level) * self.kept.get("off", 1.0)


class Stashes(Told):
    """The bundle is put on the module before the call, and read in the hook, as published code does."""

    def attach(self, model: Any) -> None:
        super().attach(model)
        self.handles.append(model.denoiser.register_forward_pre_hook(self.before))

    def before(self, module: Any, given: Any) -> None:
        self.network = (module,)
        module.stash = given[1:]

    def after(self, module: Any, given: Any, out: Tensor) -> Tensor:
        level, cond = self.network[0].stash
        return out * self.factor(cond, level).mean(0)


class StashesInOneLayer(Stashes):
    """As little as can be between the stash and its reading: the second layer alone has a hook, before it and after."""

    def attach(self, model: Any) -> None:
        Told.attach(self, model)
        self.handles.append(model.denoiser.second.register_forward_pre_hook(self.before))

    def before(self, module: Any, given: Any) -> None:
        now = evaluation()
        assert now is not None
        self.network = (module,)
        module.stash = now.noise_level, now.cond


class StashesBehindALayer(StashesInOneLayer):
    """After the first layer, for the second one: what it is has changed by its `forward` alone."""

    def attach(self, model: Any) -> None:
        Told.attach(self, model)
        first = model.denoiser.first
        forward = first.forward

        def stashing(x: Tensor) -> Tensor:
            self.before(first, ())
            made: Tensor = forward(x)
            return made

        first.forward = stashing


def model(suite: AdapterSuite) -> Model:
    with seeded(3):
        return toys.toy_model(suite.latent, denoiser=Network())


def test_an_adapter_that_asks_for_the_evaluation_passes() -> None:
    assert not faults_of(AdapterSuite, Told, model=model)


@mistakes(
    Mistake(CachesOnItself, "test_a_run_leaves_nothing_behind", "the same run a second time has other bits"),
    Mistake(CachesOnItself, "test_runs_do_not_disturb_each_other", "has other bits beside another run"),
    Mistake(ForgetsAtTheEnd, "test_runs_do_not_disturb_each_other", "has other bits beside another run"),
    Mistake(StaysSwitched, "test_a_run_leaves_nothing_behind", "after a run, a call outside of runs has other bits"),
    Mistake(Stashes, "test_calls_do_not_meet_in_the_modules", "other bits if another one comes in between"),
    Mistake(StashesInOneLayer, "test_calls_do_not_meet_in_the_modules", "other bits if another one comes in between"),
    Mistake(StashesBehindALayer, "test_calls_do_not_meet_in_the_modules", "other bits if another one comes in between"),
)
def test_a_mistake_of_an_adapter_over_a_run_is_found(mistake: Mistake) -> None:
    assert_found(AdapterSuite, mistake, model=model)
