"""The base of the conformance kit's suites: a component built by its name, and the tests that all kinds share."""

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

from ldm_core import contracts
from ldm_core.catalog import Catalog, Entry
from ldm_core.catalog.component import Component
from ldm_core.config.documents import dump_yaml, parse_yaml
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts import Config, LatentSpec, Site, configs
from ldm_core.testing.config_class import FROZEN, NAMES, check_config_class, misspelt_names
from ldm_core.testing.rules import Rule

_KIT = __name__.rpartition(".")[0]


@cache
def installed() -> Catalog:
    """The catalog of the installed plugins, discovered once a process."""
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
    """True of two trees that are equal, tensors and arrays element for element."""
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
    """Seed torch's global generator inside, and put it back after: modules draw their first weights from it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes milliseconds without a GPU
        yield


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Move every floating parameter a little: a weight of zero would hide a path from a test."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_((0.05 * noise).to(parameter))


class Suite:
    """A pytest class that a component's author subclasses, to set two attributes.

    `component` is the name (or preset) in the catalog; `settings` override fields of its config, to make it tiny.
    A standard test cannot be overridden. A known failure is declared in `xfail` with its reason; once the test passes,
    the declaration itself fails. `catalog` replaces the catalog of installed plugins.
    """

    kind: ClassVar[str] = ""
    protocol: ClassVar[type] = object
    component: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    xfail: ClassVar[Mapping[str, str]] = MappingProxyType({})
    catalog: ClassVar[Catalog | None] = None
    sizes: ClassVar[Sequence[tuple[int, ...]]] = ((32, 32), (32, 48))
    """Image sizes (H, W) for the component; most tests take the first."""
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

    @Rule(
        Component,
        "called as ``factory(config, site)``",
        "name the callable in the descriptor as 'package.module:callable', and let it take (config, site)",
    )
    def test_builds_by_name(self) -> None:
        """The catalog has the name, and its factory builds from (config, site)."""
        entry, _ = self.entry()
        assert entry.component.kind == self.kind
        assert self.build() is not None

    @Rule(
        contracts,
        "A subclass that forgets a method",
        "give it every method and attribute of the contract, under the contract's names",
    )
    def test_meets_the_protocol(self) -> None:
        """Every method and attribute of the contract is there."""
        built = self.build()
        missing = [n for n in _members(self.protocol) if not hasattr(built, n)]
        assert not missing, f"{type(built).__name__} lacks {', '.join(missing)} of {self.protocol.__name__}"
        assert isinstance(built, self.protocol), f"{type(built).__name__} does not meet {self.protocol.__name__}"

    @FROZEN
    def test_config_is_frozen_and_round_trips(self) -> None:
        """The config is frozen, by keyword only, and comes back equal from YAML."""
        config = self.config()
        check_config_class(type(config))
        plain = parse_yaml(dump_yaml(unstructure(config)), self.component)
        assert structure(plain, type(config)) == config, "the config does not come back equal from its own YAML"

    @Rule(
        Config.check,
        "Yield a line for each thing that does not fit",
        "yield a line where the part cannot work at `site`, and none elsewhere",
    )
    def test_config_check_passes(self) -> None:
        """The config's own check has nothing to say about the configuration under test."""
        problems = list(configs.of(Config, self.config()).check(self.site()))
        assert not problems, "config.check(site) complains: " + "; ".join(problems)

    @NAMES
    def test_optional_names_are_spelt_as_in_the_contract(self) -> None:
        """No public name of the config or the part is nearly an optional name of the contract."""
        slips = list(misspelt_names(self.kind, type(self.config()), self.build()))
        assert not slips, "; ".join(slips)


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


def generators() -> tuple[Any, Any, Any]:
    """The states of torch's, numpy's and Python's global generators."""
    return torch.get_rng_state(), np.random.get_state(legacy=True), random.getstate()
