"""Mistakes planted in right toys: each is found by a test of the kit, which says the contract's line and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from test_testing_kit_modules import Stage, StageConfig, Words, WordsConfig, faults_of
from test_testing_kit_samplers import Euler
from test_testing_kit_samplers import faults_of as sampler_faults
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import Accepts, Denoiser, LatentSpec, NoiseSchedule, Site, TimeGrid
from ldm_core.contracts.conditioning import Cond
from ldm_core.testing import ConditionerSuite, DenoiserSuite, FirstStageSuite, TimeGridSuite
from ldm_core.testing.devices import PickedDevice, elsewhere, require_placed

DEVICE = "creates tensors on the device of its inputs or of its parameters and never picks one itself"


class Planted(Words):
    """Words, whose bundle is changed before it is handed back."""

    def encode(self, batch: Mapping[str, Any]) -> Cond:
        return self.changed(super().encode(batch), batch)

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond


class Double(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn.double())


class DoubleByNumpy(Planted):
    """A number of numpy's makes float64 of all that it meets first."""

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        scale = torch.as_tensor(np.ones(1), device=self.empty.device)
        return cond._replace(crossattn=cond.crossattn.to(scale.dtype) * scale)


class MaskMadeAnywhere(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        mask = torch.zeros(cond.crossattn_mask.shape, dtype=torch.bool)
        mask[:] = cond.crossattn_mask
        return cond._replace(crossattn_mask=mask)


class PositionsMadeAnywhere(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn + torch.arange(cond.crossattn.shape[1]).view(-1, 1))


class TakesTheGpu(Planted):
    """The usual line of scripts."""

    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.place = "cuda" if torch.cuda.is_available() else "cpu"

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn.to(self.place))


class StaysOnTheCpu(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn * torch.ones(1, 1, self.spec.crossattn, device="cpu"))


class WrongWidth(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn[..., :-1])


class UndeclaredVector(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(vector=cond.crossattn.mean(1))


class NumbersForAMask(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn_mask=cond.crossattn_mask.float())


class BatchMean(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn - cond.crossattn.mean(0))


class CountsCalls(Planted):
    calls: Tensor

    def __init__(self, config: WordsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.register_buffer("calls", torch.zeros(()))

    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        self.calls += 1
        return cond


class Jitters(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn + 1e-3 * torch.randn_like(cond.crossattn))


class ShortNull(Words):
    def null(self, like: Cond) -> Cond:
        null = super().null(like)
        assert null.crossattn is not None and null.crossattn_mask is not None
        return null._replace(crossattn=null.crossattn[:, :1], crossattn_mask=null.crossattn_mask[:, :1])


class ReadsAnUndeclaredKey(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        return cond._replace(crossattn=cond.crossattn * batch["weight"])


class EditsItsInput(Planted):
    def changed(self, cond: Any, batch: Mapping[str, Any]) -> Any:
        batch["caption"][0] = "changed"
        return cond


FOUND: list[tuple[type, str, tuple[str, ...]]] = [
    (Double, "test_spec_is_true", ("as float64", "expected: float32", "To fix: write what")),
    (Double, "test_computes_in_single_precision", ("crossattn", "float64 of float32 inputs", "dtype=torch.float32")),
    (DoubleByNumpy, "test_computes_in_single_precision", ("arrays of numpy",)),
    (MaskMadeAnywhere, "test_picks_no_device", ("crossattn_mask", DEVICE, "give device=x.device")),
    (PositionsMadeAnywhere, "test_picks_no_device", ("torch's add got a tensor of the default device", DEVICE)),
    (TakesTheGpu, "test_picks_no_device", ("moves a tensor to 'cuda' by itself", DEVICE)),
    (StaysOnTheCpu, "test_picks_no_device", ("torch's mul", DEVICE)),
    (WrongWidth, "test_spec_is_true", ("(2, ", "expected: (B, L, 6), as its spec declares", "Conditioner.encode:")),
    (UndeclaredVector, "test_spec_is_true", ("wrote vector float32", "its spec declares no vector")),
    (NumbersForAMask, "test_spec_is_true", ("crossattn_mask float32", "expected: bool")),
    (BatchMean, "test_an_example_does_not_depend_on_its_batch", ("alone and in a batch of 3 differ",)),
    (CountsCalls, "test_repeats_itself", ("a call in eval mode changed the component's state",)),
    (Jitters, "test_leaves_the_global_generators_alone", ("use Streams",)),
    (ShortNull, "test_null_matches_encode", ("wrote crossattn float32", "Conditioner.null:", "To fix: make each part")),
    (ReadsAnUndeclaredKey, "test_spec_is_true", ("'weight' is no key of the kit's batch", "extends batch")),
]


@pytest.mark.parametrize(("conditioner", "test", "said"), FOUND)
def test_a_conditioners_mistake(conditioner: type, test: str, said: tuple[str, ...]) -> None:
    found = faults_of(ConditionerSuite, conditioner, WordsConfig)
    assert test in found, found
    for each in said:
        assert each in found[test], found[test]


# ------------------------------------------------------------------------------------------------------- first stages


class DoubleLatents(Stage):
    def latents(self, moments: Tensor, *, streams: Any = None) -> Tensor:
        return super().latents(moments, streams=streams).double()

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z.float())


class StatisticsAnywhere(Stage):
    def latents(self, moments: Tensor, *, streams: Any = None) -> Tensor:
        return super().latents(moments, streams=streams) * torch.tensor([1.0, 1.0, 1.0]).view(-1, 1, 1)


class TakesAnySize(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class RefusesInItsOwnWay(Stage):
    def encode_moments(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 4 == 0 and x.shape[3] % 4 == 0, "bad size"
        return self.encoder(x)


@pytest.mark.parametrize(
    ("stage", "test", "said"),
    [
        (DoubleLatents, "test_computes_in_single_precision", ("latents", "float64 of float32 inputs")),
        (StatisticsAnywhere, "test_picks_no_device", ("torch's mul", DEVICE)),
        (TakesAnySize, "test_an_indivisible_size_is_refused", ("raises nothing", "ValueError", "self.latent.shape(")),
        (RefusesInItsOwnWay, "test_an_indivisible_size_is_refused", ("raises AssertionError (bad", "not ValueError")),
    ],
)
def test_a_first_stages_mistake(stage: type, test: str, said: tuple[str, ...]) -> None:
    found = faults_of(FirstStageSuite, stage, StageConfig)
    assert test in found, found
    for each in said:
        assert each in found[test] and "DID NOT RAISE" not in found[test], found[test]


# ----------------------------------------------------------------------------------------------------------- samplers


class DividesByNumbers(Euler):
    """As most published samplers are written: in units of alpha, with Python's numbers."""

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        ratio = float(schedule.sigma(now)) / float(schedule.alpha(now))
        eps = (x / float(schedule.alpha(now)) - x0) / ratio
        return float(schedule.alpha(after)) * x0 + float(schedule.sigma(after)) * eps


class NoiseWithoutAsking(Euler):
    """Draws where it is given streams, and goes without where it is not."""

    def step(self, x: Tensor, x0: Tensor, schedule: Any, now: Tensor, after: Tensor, streams: Any) -> Tensor:
        noise = streams.normal(x.shape).to(x)  # AttributeError without streams
        return super().step(x, x0, schedule, now, after, streams) + 0 * noise


class GoesOnAfterCancelling(Euler):
    def told(self, on_step: Any, i: int, after: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        try:
            return super().told(on_step, i, after, x, x0)
        except Exception:
            return x


@pytest.mark.parametrize(
    ("sampler", "test", "said"),
    [
        (
            DividesByNumbers,
            "test_is_finite_everywhere",
            ("steps on flow: it divides by zero", "never by alpha without"),
        ),
        (DividesByNumbers, "test_converges_to_the_exact_solution", ("divides by zero", "divides_by_alpha = True")),
        (
            NoiseWithoutAsking,
            "test_noise_comes_from_the_streams",
            ("without streams", "raise ValueError where it is None"),
        ),
        (GoesOnAfterCancelling, "test_on_step_can_cancel", ("raises nothing", "what it raises comes out")),
    ],
)
def test_a_samplers_mistake(sampler: type, test: str, said: tuple[str, ...]) -> None:
    found = sampler_faults(sampler)
    assert test in found, found
    for each in said:
        assert each in found[test] and "DID NOT RAISE" not in found[test], found[test]
        assert not found[test].startswith(("ZeroDivisionError", "AttributeError"))


# ------------------------------------------------------------------------------------------------ grids and denoisers


@attrs.frozen(kw_only=True)
class GridConfig:
    pass


class OneLevelShort(TimeGrid):
    def __init__(self, config: Any, site: Any) -> None:
        pass

    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return torch.linspace(schedule.t_max, 0, max(steps, 1), dtype=torch.float64)


def test_a_grids_mistakes() -> None:
    found = faults_of(TimeGridSuite, OneLevelShort, GridConfig)
    assert "one level more than steps" in found["test_times"] and "contract TimeGrid.times" in found["test_times"]
    assert "raises nothing" in found["test_no_steps_are_refused"]


@attrs.frozen(kw_only=True)
class NetConfig:
    accepts: Accepts = attrs.field(factory=lambda: Accepts(vector=False, concat=False, residuals=False))


class IgnoresTheMask(Denoiser, nn.Module):
    """Looks at all tokens, the hidden ones too."""

    def __init__(self, config: NetConfig, site: Site) -> None:
        super().__init__()
        latent = site.latent or LatentSpec(4)
        self.into = nn.Conv2d(latent.channels, 8, 1)
        self.tokens = nn.Linear(site.cond.crossattn, 8)
        self.out = nn.Conv2d(8, latent.channels, 1)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        assert cond.crossattn is not None
        seen = self.tokens(cond.crossattn).mean(1) + (noise_level / 1000).view(-1, 1)
        out: Tensor = self.out(F.silu(self.into(x) + seen[..., None, None]))
        return out


class LevelsAnywhere(IgnoresTheMask):
    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        return super().forward(x, noise_level * torch.linspace(1, 1, len(x)), cond)


@pytest.mark.parametrize(
    ("net", "test", "said"),
    [
        (IgnoresTheMask, "test_masked_tokens_do_not_matter", "masked tokens change the output"),
        (LevelsAnywhere, "test_picks_no_device", DEVICE),
    ],
)
def test_a_denoisers_mistake(net: type, test: str, said: str) -> None:
    found = faults_of(DenoiserSuite, net, NetConfig)
    assert said in found.get(test, ""), found


# ------------------------------------------------------------------------------------------------------------ devices

X = torch.randn(2, 4)
WEIGHT = nn.Parameter(torch.randn(4, 4))
RIGHT = {
    "of the input": lambda: torch.zeros(2, 4, device=X.device) + X,
    "moved there": lambda: torch.tensor([[1.0, 2.0, 3.0, 4.0]]).to(X.device) + X,
    "moved to its like": lambda: torch.arange(4).to(X) + X,
    "of its type": lambda: torch.arange(4).type_as(X) + X,
    "new": lambda: X.new_zeros(2, 4),
    "alike": lambda: torch.zeros_like(X),
    "a number": lambda: X * torch.tensor(3.0),
    "a number of Python": lambda: X * float(torch.linspace(0, 1, 3).sum()),
    "an index": lambda: X[torch.tensor([0, 1])],
    "of a parameter": lambda: F.embedding(torch.tensor([1, 2], device=WEIGHT.device), WEIGHT),
    "through numpy": lambda: torch.tensor(X.cpu().numpy(), device=X.device),
    "a copy into it": lambda: torch.empty_like(X).copy_(torch.zeros(2, 4)),
    "stacked and moved": lambda: torch.stack([torch.tensor(1.0), torch.tensor(2.0)]).to(X.device),
}
WRONG = {
    "made by itself": lambda: torch.zeros(2, 4),
    "random": lambda: torch.rand(2, 4) + X,
    "an index of an embedding": lambda: F.embedding(torch.tensor([1, 2]), WEIGHT),
    "a choice": lambda: torch.where(torch.arange(4) > 1, X, X),
    "put together": lambda: torch.cat([X, torch.zeros(1, 4)]),
    "by numpy": lambda: torch.from_numpy(np.zeros((2, 4), np.float32)) + X,
    "a mask of attention": lambda: F.scaled_dot_product_attention(
        X[None], X[None], X[None], attn_mask=torch.ones(2, 2, dtype=torch.bool)
    ),
    "a named device": lambda: torch.zeros(2, 4, device="cpu") + X,
    "a GPU": lambda: torch.zeros(2, 4, device="cuda"),
    "moved to a GPU": lambda: X.cuda(),
    "moved to a named one": lambda: X.to("cuda:0"),
    "taken where there is one": lambda: X.to("cuda" if torch.cuda.is_available() else "cpu"),
}


@pytest.mark.parametrize("case", [*RIGHT, *WRONG])
def test_where_tensors_are_made(case: str) -> None:
    before = torch.cuda.is_available

    def run() -> None:
        with elsewhere():
            out = {**RIGHT, **WRONG}[case]()
        require_placed({"out": out})

    if case in RIGHT:
        run()
    else:
        with pytest.raises(PickedDevice, match="never picks one itself"):
            run()
    assert torch.cuda.is_available is before
