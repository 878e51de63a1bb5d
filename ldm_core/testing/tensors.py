"""The suites of components with tensors, and of components with weights: the tests that all their kinds share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ldm_core import contracts
from ldm_core.contracts import Config, configs
from ldm_core.testing import devices
from ldm_core.testing.base import Suite, generators, largest_difference, map_tensors, move, randomize, same
from ldm_core.testing.rules import Rule


class CallSuite(Suite):
    """A suite of a component that computes, of results of any shape.

    A suite of a kind says with :meth:`inputs` and :meth:`run` how its component is called.
    """

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> Any:
        """A tree of tensors with the examples `rows`; example i is the same in every batch."""
        raise AssertionError(f"{type(self).__name__} does not say what its component is called with")

    def run(self, component: Any, inputs: Any) -> Mapping[str, Tensor]:
        """Call everything of the contract; outputs by name."""
        raise AssertionError(f"{type(self).__name__} does not say how its component is called")

    @Rule(
        contracts,
        "in eval mode an equal call gives an equal result",
        "draw from no generator, keep dropout to self.training, and write to no buffer in eval mode",
    )
    def test_repeats_itself(self) -> None:
        """Called twice on the same input in eval mode, it gives the same, bit for bit; the state stays as it was."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        state = _state(component)
        first, second = self._quietly(component, given), self._quietly(component, given)
        changed = [k for k in first if not same(first[k], second[k])]
        assert not changed, f"two calls in eval mode differ in {', '.join(changed)}"
        assert same(state, _state(component)), "a call in eval mode changed the component's state"

    @Rule(contracts, "changes no argument in place", "compute out of place (x * 2 for x.mul_(2)), or on a clone")
    def test_inputs_stay_unchanged(self) -> None:
        """No argument is edited in place."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        before = map_tensors(Tensor.clone, given)
        self._quietly(component, given)
        assert same(before, map_tensors(Tensor.clone, given)), "the component changed its inputs in place"

    @Rule(
        contracts,
        "The global generators of torch, numpy and Python",
        "draw from the streams that the method is handed; one that is handed none draws nothing",
    )
    def test_leaves_the_global_generators_alone(self) -> None:
        """Randomness comes from streams only: torch's, numpy's and Python's generators are where they were."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        before = generators()
        self._quietly(component, given)
        after = generators()
        for name, a, b in zip(("torch", "numpy", "random"), before, after, strict=True):
            assert same(a, b), f"the component draws from the global generator of {name}"

    @Rule(
        contracts,
        "under bfloat16 autocast too",
        "do in float32 what overflows, and cast a buffer to the type of what it meets",
    )
    def test_runs_under_bfloat16(self) -> None:
        """It runs under bfloat16 autocast and stays finite, unless its config leaves bf16 out."""
        if "bf16" not in (configs.of(Config, self.config()).precisions or configs.PRECISIONS):
            pytest.skip("its config does not allow bf16")
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self._quietly(component, given)
        for name, value in outputs.items():
            if value.is_floating_point():
                assert bool(value.isfinite().all()), f"{name} is not finite under bfloat16 autocast"

    @Rule(
        contracts,
        "in one of the `precisions` that its config names",
        "name those of fp32, bf16 and fp16 in which the part is right: not fp16, if its results leave that range",
    )
    def test_runs_in_the_precisions_that_it_names(self) -> None:
        """They are known ones, with fp32 but for a denoiser and an adapter; in a named fp16, results are finite."""
        named = configs.of(Config, self.config()).precisions
        assert isinstance(named, tuple), f"precisions is {type(named).__name__}, not a tuple"
        assert not (unknown := [name for name in named if name not in configs.PRECISIONS]), (
            f"unknown precisions: {unknown}"
        )
        if named and self.kind not in ("denoiser", "adapter"):
            assert "fp32" in named, f"precisions {named} leave out fp32, in which every {self.kind} must run"
        if "fp16" not in named:
            return
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        with torch.autocast("cpu", dtype=torch.float16):
            outputs = self._quietly(component, given)
        for name, value in outputs.items():
            assert not value.is_floating_point() or bool(value.isfinite().all()), f"{name} is not finite in fp16"

    @Rule(contracts, "never picks one itself", "give device=x.device, or that of a parameter")
    def test_runs_on_the_accelerator(self) -> None:
        """Moved to a GPU, if there is one, it computes there, and about the same."""
        if not torch.cuda.is_available():
            pytest.skip("no accelerator on this machine")
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        here = self._quietly(component, given)
        if isinstance(component, nn.Module):
            component.to("cuda")
        there = self._quietly(component, move(given, "cuda"))
        for name, value in there.items():
            assert value.device.type == "cuda", f"{name} came back on {value.device}"
            if value.is_floating_point():
                far = largest_difference(value, here[name])
                assert far <= 0.05 * (1 + float(here[name].abs().max())), f"{name} is off by {far:.2g} on the GPU"

    def _quietly(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(self.run(component, inputs))


class TensorSuite(CallSuite):
    """A suite of a component that computes: every result of its :meth:`run` has the batch first."""

    atol: ClassVar[float] = 1e-5
    """The largest difference of a row in a batch from the same row alone (float32)."""

    def row(self, name: str, outputs: Mapping[str, Tensor], index: int, alone: Mapping[str, Tensor]) -> Tensor:
        """Row `index` of an output, made comparable with the same example computed `alone`."""
        return outputs[name][index : index + 1]

    @Rule(
        contracts,
        "of finite inputs the result is finite",
        "keep the batch first, and look at what is divided by or taken the root of",
    )
    def test_outputs_are_finite(self) -> None:
        """Every output is a finite tensor with the batch first, at every size."""
        for size in self.sizes:
            outputs = self._quietly(self.build(size=size), self.inputs(range(2), size))
            assert outputs, "no output"
            for name, value in outputs.items():
                assert isinstance(value, Tensor), f"{name} is {type(value).__name__}, not a tensor"
                assert value.shape[0] == 2, f"{name} has shape {tuple(value.shape)} for a batch of 2 at {size}"
                assert not value.is_floating_point() or bool(value.isfinite().all()), f"{name} is not finite at {size}"

    @Rule(
        contracts,
        "row i of a result depends on row i",
        "reduce over the axes of each example and never over the batch; mask what pads a row",
    )
    def test_an_example_does_not_depend_on_its_batch(self) -> None:
        """Row i of a batch of 3 is what example i alone gives."""
        component = self.build()
        together = self._quietly(component, self.inputs(range(3), self.sizes[0]))
        for i in range(3):
            alone = self._quietly(component, self.inputs([i], self.sizes[0]))
            assert alone.keys() == together.keys(), f"alone: {sorted(alone)}; in a batch: {sorted(together)}"
            for name in alone:
                far = largest_difference(self.row(name, together, i, alone), alone[name])
                assert far <= self.atol, f"{name}: example {i} alone and in a batch of 3 differ by {far:.2g}"


class WeightSuite(CallSuite):
    """The tests of a component's weights, device and arithmetic."""

    def weighted(self) -> nn.Module:
        """A fresh component with a state dict."""
        component = self.build()
        assert isinstance(component, nn.Module), f"{type(component).__name__} is no torch.nn.Module"
        return component

    @Rule(
        contracts,
        "Everything that it learned is in its ``state_dict``",
        "keep what is learned in parameters and in buffers (register_buffer), extra state as a uint8 tensor",
    )
    def test_state_round_trip(self) -> None:
        """A fresh component given the state dict computes the same, bit for bit; the state holds tensors only."""
        component, given = self.weighted(), self.inputs(range(2), self.sizes[0])
        randomize(component, seed=1)
        self.learn(component)
        state = component.state_dict()
        loose = [k for k, v in state.items() if not isinstance(v, Tensor)]
        assert not loose, f"state_dict holds what is no tensor: {', '.join(loose)}"
        fresh = self.fresh(seed=9)
        missing, unexpected = fresh.load_state_dict({k: v.clone() for k, v in state.items()}, strict=False)
        assert not missing and not unexpected, f"missing keys {missing}, unexpected keys {unexpected}"
        first, second = self._quietly(component, given), self._quietly(fresh, given)
        changed = [k for k in first if not same(first[k], second.get(k))]
        assert not changed, f"after load_state_dict a fresh component differs in {', '.join(changed)}"

    @Rule(
        contracts,
        "neither freezes itself nor wraps itself",
        "leave requires_grad and no_grad to the core; train: false in a recipe freezes a part",
    )
    def test_gradients_are_not_forced_off(self) -> None:
        """The core freezes; the component itself neither freezes its parameters nor works under no_grad."""
        component, given = self.weighted(), self.inputs(range(2), self.sizes[0])
        frozen = [n for n, p in component.named_parameters() if not p.requires_grad]
        assert not frozen, f"the component froze {', '.join(frozen[:3])}"
        if not list(component.parameters()):
            return
        with torch.enable_grad():
            outputs = self.run(component, given)
        assert any(v.requires_grad for v in outputs.values()), "no output has a gradient: no_grad inside?"

    @Rule(contracts, "never picks one itself", "give device=x.device, or that of a parameter")
    def test_picks_no_device(self) -> None:
        """With its inputs and parameters on a device that is not the default one, it makes all its tensors there."""
        given = self.inputs(range(2), self.sizes[0])
        with devices.accelerated():
            component = self.build()
        try:
            with devices.elsewhere():
                outputs = self._quietly(component, given)
        except devices.PickedDevice:
            raise
        except Exception as error:
            pytest.skip(f"cannot be followed through its code ({type(error).__name__}: {error})")
        devices.require_placed(outputs)

    @Rule(
        contracts,
        "of float32 inputs a component makes float32",
        "give torch.tensor, torch.as_tensor and arrays of numpy dtype=torch.float32",
    )
    def test_computes_in_single_precision(self) -> None:
        """It makes no float64 of float32 inputs: accelerators are slow at it, or have none."""
        outputs = self._quietly(self.build(), self.inputs(range(2), self.sizes[0]))
        double = sorted(name for name, value in outputs.items() if value.dtype == torch.float64)
        assert not double, f"{', '.join(double)} came out as float64 of float32 inputs"

    @Rule(
        contracts,
        "a component only reads ``self.training``",
        "call neither train() nor eval() on the component or a part of it",
    )
    def test_modes_are_the_cores(self) -> None:
        """A call leaves train and eval mode as they were set."""
        component, given = self.weighted(), self.inputs(range(2), self.sizes[0])
        for mode in (True, False):
            component.train(mode)
            before = [m.training for m in component.modules()]
            self._quietly(component, given)
            assert before == [m.training for m in component.modules()], "a call switched train or eval mode"

    def fresh(self, seed: int) -> Any:
        """A newly built component that has learned nothing."""
        return self.build(seed=seed)

    def learn(self, component: Any) -> None:
        """Teach `component` what no gradient teaches."""


class ModuleSuite(TensorSuite, WeightSuite):
    """A suite of a component with weights, a ``torch.nn.Module``."""


def _state(component: Any) -> dict[str, Any]:
    if not isinstance(component, nn.Module):
        return {}
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in component.state_dict().items()}
