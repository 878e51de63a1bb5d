"""The contracts: shapes, specs, and what a subclass that forgets something is told."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import ldm_core
from ldm_core import contracts
from ldm_core.contracts import (
    Accepts,
    Adapter,
    Conditioner,
    CondSpec,
    DataInfo,
    Denoiser,
    Estimate,
    FirstStage,
    Guidance,
    LatentSpec,
    LossOutput,
    NoiseSchedule,
    Objective,
    Parameterization,
    Reconstruction,
    Sampler,
    Site,
    TimeGrid,
)
from ldm_core.contracts.conditioning import Cond

STABLE = {
    FirstStage: ("encode_moments", "latents", "decode", "project", "set_normalization"),
    Conditioner: ("encode", "null"),
    Denoiser: ("forward",),
    Sampler: ("sample",),
}
PROVISIONAL = {
    NoiseSchedule: ("alpha", "sigma", "noise_level", "draw"),
    Parameterization: ("coefficients",),
    Objective: ("loss",),
    Guidance: ("guide",),
    TimeGrid: ("times",),
    Adapter: ("attach", "detach"),
}


def method(self: Any, *args: Any, **kwargs: Any) -> Any:
    return "called"


@pytest.mark.parametrize("contract", [*STABLE, *PROVISIONAL])
@pytest.mark.parametrize("module", [False, True])
def test_a_forgotten_method_fails_at_construction_with_its_name(contract: type, module: bool) -> None:
    names = {**STABLE, **PROVISIONAL}[contract]
    bases = (contract, nn.Module) if module else (contract,)
    for forgotten in names:
        cls = type("Mine", bases, {n: method for n in names if n != forgotten})
        with pytest.raises(TypeError) as caught:
            cls()
        assert "Mine" in str(caught.value) and forgotten in str(caught.value)
    assert type("Mine", bases, dict.fromkeys(names, method))() is not None


@pytest.mark.parametrize("contract", [FirstStage, Conditioner, Denoiser, Sampler, Objective, Adapter])
@pytest.mark.parametrize("module_first", [False, True])
def test_a_module_of_a_contract_is_initialised_in_either_order(contract: type, module_first: bool) -> None:
    names = {**STABLE, **PROVISIONAL}[contract]
    bases = (nn.Module, contract) if module_first else (contract, nn.Module)

    def __init__(self: Any, width: int) -> None:
        nn.Module.__init__(self)
        self.layer = nn.Linear(width, 2)

    def cooperative(self: Any, width: int) -> None:
        super(cls, self).__init__()  # type: ignore[arg-type]
        self.layer = nn.Linear(width, 2)

    for init in (__init__, cooperative):
        cls = type("Mine", bases, {**dict.fromkeys(names, method), "__init__": init})
        built: Any = cls(3)
        assert [n for n, _ in built.named_parameters()] == ["layer.weight", "layer.bias"]
        assert isinstance(built, contract)


def test_a_denoiser_is_called_as_a_module() -> None:
    class Net(Denoiser, nn.Module):
        def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
            return x + 1

    net, seen = Net(), []
    net.register_forward_hook(lambda m, args, out: seen.append(args[2]))
    cond = Cond()
    assert float(net(torch.zeros(1), torch.zeros(1), cond)) == 1
    assert seen[0] is cond  # hooks find the bundle as the third positional argument


def test_structure_is_enough() -> None:
    class Elsewhere:
        def sample(self, *args: Any, **kwargs: Any) -> Any: ...

    class NotThat:
        def draw(self) -> None: ...

    assert isinstance(Elsewhere(), Sampler) and not isinstance(NotThat(), Sampler)


def test_the_stable_four_are_exported() -> None:
    for contract in STABLE:
        assert getattr(ldm_core, contract.__name__) is contract
        assert "Stable API" in str(contract.__doc__)
    for contract in PROVISIONAL:
        assert "Provisional" in str(contract.__doc__), contract
    for word in ("device", "train/eval mode", "freezing", "parameters"):
        assert word in str(contracts.__doc__)


@pytest.mark.parametrize(
    ("stride", "size", "shape"),
    [
        ((8, 8), (32, 48), (4, 4, 6)),
        ((4, 4), (64, 64), (4, 16, 16)),
        ((1, 1), (7, 9), (4, 7, 9)),
        ((1, 8, 8), (5, 16, 24), (4, 5, 2, 3)),  # a video's frames, rows and columns
    ],
)
def test_latent_shape(stride: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    assert LatentSpec(4, stride).shape(size) == shape


@pytest.mark.parametrize(
    ("size", "words"),
    [((33, 32), ("33", "8", "32")), ((32, 100), ("100", "8", "96")), ((0, 32), ("0", "8")), ((32,), ("1 axes", "2"))],
)
def test_latent_shape_names_both_numbers(size: tuple[int, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        LatentSpec(4, (8, 8)).shape(size)
    for word in words:
        assert word in str(caught.value)


def test_specs_merge_as_bundles_do() -> None:
    merged = CondSpec.merge(
        {
            "text": CondSpec(crossattn=16, vector=2),
            "boxes": CondSpec(crossattn=16, residuals=("mid",), extras={"t5": (None, 3)}),
            "map": CondSpec(concat=3, vector=5, residuals=("mid", "in.1"), extras={"fps": ()}),
        }
    )
    assert merged == CondSpec(16, 7, 3, ("mid", "in.1"), {"t5": (None, 3), "fps": ()})
    assert CondSpec.merge({}) == CondSpec()


def test_specs_that_do_not_merge_name_both() -> None:
    with pytest.raises(ValueError) as caught:
        CondSpec.merge({"text": CondSpec(crossattn=16), "boxes": CondSpec(crossattn=32)})
    for word in ("'text'", "16", "'boxes'", "32", "conditioners.boxes.width=16"):
        assert word in str(caught.value)
    with pytest.raises(ValueError) as caught:
        CondSpec.merge({"a": CondSpec(extras={"t5": ()}), "b": CondSpec(extras={"t5": ()})})
    for word in ("'a'", "'b'", "'t5'"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "value", [LatentSpec(4), CondSpec(), Accepts(), Site(size=(8, 8)), DataInfo(keys={"image": "image"})]
)
def test_specs_are_values(value: Any) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, attrs.fields(type(value))[0].name, None)
    assert pickle.loads(pickle.dumps(value)) == value  # into loader workers
    assert copy.deepcopy(value) == value  # into an average of weights


def test_what_passes_through_modules_is_a_named_tuple() -> None:
    for value in (
        Cond(),
        Estimate(torch.ones(1)),
        LossOutput(torch.ones(1)),
        Reconstruction(torch.ones(1), torch.ones(())),
    ):
        assert isinstance(value, tuple) and hasattr(value, "_fields")
    assert Estimate(torch.ones(1)).extra is None
    assert dict(LossOutput(torch.ones(1)).logs) == {}
    with pytest.raises(TypeError):
        LossOutput(torch.ones(1)).logs["mine"] = 1  # type: ignore[index]


def test_importing_contracts_needs_no_torch() -> None:
    code = "import sys, ldm_core.contracts; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode
        == 0
    )
