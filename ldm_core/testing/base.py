"""What every suite of the conformance kit shares: building by name, and the checks that hold for all components."""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldm_core.catalog import Catalog, Entry
from ldm_core.config.documents import dump_yaml, parse_yaml
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts import LatentSpec, Site
from ldm_core.testing import devices
from ldm_core.testing.config_class import check_config_class

_KIT = __name__.rpartition(".")[0]


@cache
def installed() -> Catalog:
    """The catalog of what is installed, discovered once a process."""
    return Catalog.discover()


def move(tree: Any, device: Any) -> Any:
    """`tree` with every tensor in it on `device`; lists, tuples, mappings and named tuples keep their kind."""
    return map_tensors(lambda t: t.to(device), tree)


def map_tensors(f: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`tree` with `f` applied to every tensor in it; arrays are copied, everything else is handed through."""
    if isinstance(tree, Tensor):
        return f(tree)
    if isinstance(tree, np.ndarray):
        return tree.copy()
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(f, v) for v in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(f, v) for v in tree)
    if isinstance(tree, Mapping):
        return {k: map_tensors(f, v) for k, v in tree.items()}
    return tree


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal, tensors and arrays element for element."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and bool(np.array_equal(a, b))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape; infinite where the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    return float((a.detach().double().cpu() - b.detach().double().cpu()).abs().max())


@contextmanager
def seeded(seed: int) -> Any:
    """Torch's global generator seeded inside, and put back after: modules draw their first weights from it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Move every floating parameter a little, so that no zero-initialised one hides a path from a check."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_((0.05 * noise).to(parameter))


class Suite:
    """What every suite is: a pytest class that a component's author subclasses and sets two attributes of.

    `component` is the name (or preset) in the catalog; `settings` override fields of its config, to make it tiny.
    A standard test cannot be overridden; one that the component is known to fail is declared with its reason in
    `xfail`, and the day it passes the declaration itself fails. `catalog` replaces the catalog of what is installed.
    """

    kind: ClassVar[str] = ""
    protocol: ClassVar[type] = object
    component: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    xfail: ClassVar[Mapping[str, str]] = MappingProxyType({})
    catalog: ClassVar[Catalog | None] = None
    sizes: ClassVar[Sequence[tuple[int, ...]]] = ((32, 32), (32, 48))
    """Image sizes (H, W) that the component is tried at; the first is where most checks run."""
    image_channels: ClassVar[int] = 3
    latent: ClassVar[LatentSpec] = LatentSpec(4, (8, 8))
    """The latents of the first stage around the component."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(_KIT + "."):
            return
        declared = dict(cls.xfail)
        for name, test in _standard_tests(cls).items():
            if getattr(cls, name, None) is not test:
                raise TypeError(
                    f"{cls.__name__} overrides the standard test '{name}'; a component that cannot meet it says so "
                    f'with the attribute xfail = {{"{name}": "reason"}}'
                )
            if name in declared:
                reason = declared.pop(name)
                if not isinstance(reason, str) or not reason.strip():
                    raise TypeError(f"{cls.__name__}: xfail['{name}'] needs a reason, in a few words")
                setattr(cls, name, _expected_to_fail(test, reason))
        if declared:
            raise TypeError(f"{cls.__name__}: xfail names no standard test: {', '.join(sorted(declared))}")

    # ------------------------------------------------------------------------------------------------ building

    def entry(self) -> tuple[Entry, Any]:
        """The catalog's entry of `component`, and the preset's config or None."""
        assert self.component, f"{type(self).__name__}: set the attribute component to the name in the catalog"
        return (self.catalog or installed()).get(self.kind, self.component)

    def config(self, **overrides: Any) -> Any:
        """The component's config: the preset's fields, then `settings`, then `overrides`."""
        entry, preset = self.entry()
        plain = unstructure(preset) if preset is not None else {}
        return structure({**plain, **unstructure(self.settings), **overrides}, entry.component.config, self.component)

    def site(self, size: tuple[int, ...] | None = None) -> Site:
        """The model around the component, as far as one of this kind may know it."""
        return Site(size=size or self.sizes[0], channels=self.image_channels, latent=self.latent)

    def build(
        self, overrides: Mapping[str, Any] | None = None, *, size: tuple[int, ...] | None = None, seed: int = 0
    ) -> Any:
        """A fresh component, as the core builds it, its first weights drawn under `seed`; a module is in eval mode."""
        entry, _ = self.entry()
        with seeded(seed):
            built = entry.component.load()(self.config(**(overrides or {})), self.site(size))
        if isinstance(built, nn.Module):
            built.eval()
        return built

    # ------------------------------------------------------------------------------------------ standard tests

    def test_builds_by_name(self) -> None:
        """The catalog has the name, and its factory builds from (config, site)."""
        entry, _ = self.entry()
        assert entry.component.kind == self.kind
        assert self.build() is not None

    def test_meets_the_protocol(self) -> None:
        """Every method and attribute of the contract is there."""
        built = self.build()
        missing = [n for n in _members(self.protocol) if not hasattr(built, n)]
        assert not missing, f"{type(built).__name__} lacks {', '.join(missing)} of {self.protocol.__name__}"
        assert isinstance(built, self.protocol), f"{type(built).__name__} does not meet {self.protocol.__name__}"

    def test_config_is_frozen_and_round_trips(self) -> None:
        """The config is frozen, by keyword only, and comes back equal from YAML."""
        config = self.config()
        check_config_class(type(config))
        plain = parse_yaml(dump_yaml(unstructure(config)), self.component)
        assert structure(plain, type(config)) == config, "the config does not come back equal from its own YAML"

    def test_config_check_passes(self) -> None:
        """The config's own check has nothing to say about the configuration under test."""
        check = getattr(self.config(), "check", None)
        problems = list(check(self.site())) if check else []
        assert not problems, "config.check(site) complains: " + "; ".join(problems)


class TensorSuite(Suite):
    """A suite of a component that computes: what must hold of every computation.

    A suite of a kind says with :meth:`inputs` and :meth:`run` how its component is called.
    """

    atol: ClassVar[float] = 1e-5
    """How far a row may be from the same row computed alone (float32)."""

    def inputs(self, rows: Sequence[int], size: tuple[int, ...]) -> Any:
        """A tree of tensors holding the examples `rows`; example i is the same in every batch."""
        raise AssertionError(f"{type(self).__name__} does not say what its component is called with")

    def run(self, component: Any, inputs: Any) -> Mapping[str, Tensor]:
        """Call everything of the contract; outputs by name, all with the batch first."""
        raise AssertionError(f"{type(self).__name__} does not say how its component is called")

    def row(self, name: str, outputs: Mapping[str, Tensor], index: int, alone: Mapping[str, Tensor]) -> Tensor:
        """Row `index` of an output, made comparable with the same example computed `alone`."""
        return outputs[name][index : index + 1]

    def test_repeats_itself(self) -> None:
        """Called twice on the same input in eval mode, it gives the same, bit for bit; the state stays as it was."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        state = _state(component)
        first, second = self._quietly(component, given), self._quietly(component, given)
        changed = [k for k in first if not same(first[k], second[k])]
        assert not changed, f"two calls in eval mode differ in {', '.join(changed)}"
        assert same(state, _state(component)), "a call in eval mode changed the component's state"

    def test_outputs_are_finite(self) -> None:
        """Every output is a finite tensor with the batch first, at every size."""
        for size in self.sizes:
            outputs = self._quietly(self.build(size=size), self.inputs(range(2), size))
            assert outputs, "no output"
            for name, value in outputs.items():
                assert isinstance(value, Tensor), f"{name} is {type(value).__name__}, not a tensor"
                assert value.shape[0] == 2, f"{name} has shape {tuple(value.shape)} for a batch of 2 at {size}"
                assert not value.is_floating_point() or bool(value.isfinite().all()), f"{name} is not finite at {size}"

    def test_inputs_stay_unchanged(self) -> None:
        """No argument is edited in place."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        before = map_tensors(Tensor.clone, given)
        self._quietly(component, given)
        assert same(before, map_tensors(Tensor.clone, given)), "the component changed its inputs in place"

    def test_leaves_the_global_generators_alone(self) -> None:
        """Randomness comes from streams only: torch's, numpy's and Python's generators are where they were."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        before = _generators()
        self._quietly(component, given)
        after = _generators()
        for name, a, b in zip(("torch", "numpy", "random"), before, after, strict=True):
            assert same(a, b), f"the component draws from the global generator of {name}; use Streams"

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

    def test_runs_under_bfloat16(self) -> None:
        """It runs under bfloat16 autocast and stays finite."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self._quietly(component, given)
        for name, value in outputs.items():
            if value.is_floating_point():
                assert bool(value.isfinite().all()), f"{name} is not finite under bfloat16 autocast"

    def test_runs_on_the_accelerator(self) -> None:
        """Where there is a GPU: moved there, it computes there, and about the same."""
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


class ModuleSuite(TensorSuite):
    """A suite of a component with weights: a ``torch.nn.Module``."""

    def test_state_round_trip(self) -> None:
        """A fresh component given the state dict computes the same, bit for bit; the state holds tensors only."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        assert isinstance(component, nn.Module), f"{type(component).__name__} is no torch.nn.Module"
        randomize(component, seed=1)
        self.learn(component)
        state = component.state_dict()
        loose = [k for k, v in state.items() if not isinstance(v, Tensor)]
        assert not loose, f"state_dict holds what is no tensor: {', '.join(loose)} (extra state: a uint8 tensor)"
        fresh = self.fresh(seed=9)
        missing, unexpected = fresh.load_state_dict({k: v.clone() for k, v in state.items()}, strict=False)
        assert not missing and not unexpected, f"missing keys {missing}, unexpected keys {unexpected}"
        first, second = self._quietly(component, given), self._quietly(fresh, given)
        changed = [k for k in first if not same(first[k], second.get(k))]
        assert not changed, f"after load_state_dict a fresh component differs in {', '.join(changed)}"

    def test_gradients_are_not_forced_off(self) -> None:
        """The core freezes; the component itself neither freezes its parameters nor works under no_grad."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        frozen = [n for n, p in component.named_parameters() if not p.requires_grad]
        assert not frozen, f"the component froze {', '.join(frozen[:3])}; freezing is the core's"
        if not list(component.parameters()):
            return
        with torch.enable_grad():
            outputs = self.run(component, given)
        assert any(v.requires_grad for v in outputs.values()), "no output has a gradient: no_grad inside?"

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

    def test_computes_in_single_precision(self) -> None:
        """Of float32 inputs it makes no float64: accelerators are slow at it, or have none."""
        outputs = self._quietly(self.build(), self.inputs(range(2), self.sizes[0]))
        double = sorted(name for name, value in outputs.items() if value.dtype == torch.float64)
        assert not double, (
            f"{', '.join(double)} came out as float64 of float32 inputs; images, latents and conditioning are float32 "
            "(ldm_core.contracts): give torch.tensor, torch.as_tensor and arrays of numpy dtype=torch.float32"
        )

    def test_modes_are_the_cores(self) -> None:
        """A call leaves train and eval mode as they were set."""
        component, given = self.build(), self.inputs(range(2), self.sizes[0])
        for mode in (True, False):
            component.train(mode)
            before = [m.training for m in component.modules()]
            self._quietly(component, given)
            assert before == [m.training for m in component.modules()], "a call switched train or eval mode"

    def fresh(self, seed: int) -> Any:
        """A newly built component that has learned nothing."""
        return self.build(seed=seed)

    def learn(self, component: Any) -> None:
        """Give `component` what is learned otherwise than by gradients."""


def _standard_tests(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith(_KIT + "."):
            found.update({n: t for n, t in vars(base).items() if n.startswith("test_")})
    # A subclass of a subclass inherits what its parent declared: that copy is the standard for it.
    for base in reversed(cls.__mro__[1:]):
        if not base.__module__.startswith(_KIT + "."):
            found.update({n: t for n, t in vars(base).items() if n in found and hasattr(t, "_kit_xfail")})
    return found


def _expected_to_fail(test: Any, reason: str) -> Any:
    copy = types.FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    copy.__doc__, copy.__annotations__ = test.__doc__, test.__annotations__
    copy.__kwdefaults__ = test.__kwdefaults__
    copy.__dict__.update(test.__dict__, _kit_xfail=reason)
    copy.__dict__["pytestmark"] = list(getattr(test, "pytestmark", []))
    return pytest.mark.xfail(reason=reason, strict=True)(copy)


def _members(protocol: type) -> list[str]:
    names = {n for n in vars(protocol) if not n.startswith("_")}
    names |= {n for n in getattr(protocol, "__annotations__", {}) if not n.startswith("_")}
    return sorted(names)


def _generators() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(legacy=True), random.getstate()


def _state(component: Any) -> dict[str, Any]:
    if not isinstance(component, nn.Module):
        return {}
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in component.state_dict().items()}
