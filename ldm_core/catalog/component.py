"""The descriptor of a component, and the kinds there are. Imports no torch."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core.errors import ComponentError

if TYPE_CHECKING:
    from ldm_core.contracts.site import Site

_PLACE = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
"""Text of a class or function: ``package.module:name``."""

API_VERSION = 1
"""The plugin API of this core. A descriptor for another one is listed as broken, not loaded."""

KINDS: Mapping[str, str] = {
    "first_stage": "images <-> latents",
    "stage_objective": "what a first stage is trained by",
    "auxiliary_loss": "a loss beside it, of latents or images",
    "decoder": "latents -> pictures, in a first stage's place",
    "denoiser": "the network",
    "conditioner": "what steers it",
    "schedule": "the forward process",
    "parameterization": "what the network predicts",
    "objective": "how times are drawn and errors weighed",
    "time_grid": "where a sampler evaluates the schedule",
    "sampler": "noise -> latents",
    "guidance": "combines conditional and unconditional estimates",
    "runtime": "computes the networks when sampling: torch, a compiler",
    "adapter": "changes a model: LoRA and its like",
    "dataset": "examples",
    "annotation": "boxes of pictures in files of other tools",
    "degradation": "spoils a picture: a small version, a hole",
    "metric": "a number of a set of pictures",
    "observer": "is told of a run's progress",
    "codec": "weights of other programs, in and out",
    "command": "a subcommand of the command line",
}
"""Every kind of component, with a few words for listings."""


@cache
def laptop_site() -> Site:
    """The site of parts in the laptop recipe: 32-pixel images, 8x8 latents."""
    from ldm_core.contracts.site import Site
    from ldm_core.contracts.values import LatentSpec

    return Site(size=(32, 32), latent=LatentSpec(3, (4, 4)))


@attrs.frozen(kw_only=True)
class NoConfig:
    """The config of a component without settings from a recipe: a command's options are its own."""


@attrs.frozen(kw_only=True)
class Component:
    """One component, described without importing it.

    `kind` is one of :data:`KINDS`; `name` is unique within its kind and never reused for other behaviour. `config` is a
    frozen attrs class of the plugin's own, with fields by keyword only; it comes back equal from its plain values. It
    may be given as text, ``"package.module:Class"``, which is imported when the class is first asked for: a listing
    then builds no class. An answer left optional by a contract has the contract's name. `summary` is one line, for
    listings. `factory` is text, ``"package.module:callable"``, imported when the component is built and called as
    ``factory(config, site)``; a part of :meth:`Catalog.register` may give the callable itself. `presets` share the
    kind's namespace: name -> config instance, or text, ``"package.module:NAME"``, of one or of a mapping that has it
    under the preset's name. `api` is the descriptor's plugin API. `source`: paper, equation, licence of the numbers.
    `small`: the fields to scale any of its presets down to a laptop's CPU, for recipes with ``scale: small`` (whole
    numbers only ever go down), or a function of the site returning them; a preset itself stays the paper's size.
    `default`: an observer of runs without a recipe of the user's, wherever it is installed.

    A ``command`` has no config: its `factory` names the result of :func:`ldm_core.cli.command`, its `name` may hold
    dashes, and `group` is its heading in the command line's list.
    """

    kind: str
    name: str
    _config: type | str = NoConfig
    factory: str | Callable[..., Any]
    summary: str
    group: str = ""
    source: str = ""
    _presets: Mapping[str, Any] = attrs.field(factory=dict)
    small: Mapping[str, Any] | Callable[[Site], Mapping[str, Any]] = attrs.field(factory=dict)
    api: int = API_VERSION
    default: bool = False

    @property
    def config(self) -> type:
        """The config's class. :class:`ComponentError`: the text that names it leads to no attrs class."""
        if not isinstance(self._config, str):
            return self._config
        about = f"{self.kind} '{self.name}': its config, {self._config},"
        try:
            found = _imported(self._config)
        except Exception as error:
            raise ComponentError(f"{about} does not load: {type(error).__name__}: {error}") from error
        if not (isinstance(found, type) and attrs.has(found)):
            raise ComponentError(f"{about} is no attrs class")
        return found

    @property
    def presets(self) -> Mapping[str, Any]:
        """Name -> config instance; the names alone import nothing."""
        return _Presets(self)

    def load(self) -> Callable[..., Any]:
        """Import the factory."""
        return self.factory if callable(self.factory) else _imported(self.factory)

    def scaled_down(self, site: Site) -> Mapping[str, Any]:
        """The fields of :attr:`small` at `site`, possibly without latents yet."""
        return self.small(site) if callable(self.small) else self.small

    def problems(self, *, in_process: bool = False) -> list[str]:
        """The descriptor's own mistakes, one line each; empty when it can be used. `in_process`: of a part that is
        registered in Python, whose factory need not be text."""
        found = []
        if self.kind not in KINDS:
            found.append(f"unknown kind '{self.kind}' (kinds: {', '.join(KINDS)})")
        if self.kind == "command":
            found += self._problems_of_a_command()
        elif isinstance(self._config, str):
            if not _PLACE.fullmatch(self._config):
                found.append(f"config '{self._config}' is not 'package.module:Class'")
        elif self._config is NoConfig or not attrs.has(self._config):
            found.append(f"config {self._config!r} is no attrs class")
        if not isinstance(self.factory, str):
            if not (in_process and callable(self.factory)):
                found.append(f"factory {self.factory!r} is no text 'package.module:callable'")
        elif ":" not in self.factory:
            found.append(f"factory '{self.factory}' is not 'package.module:callable'")
        if not self.name.isidentifier() and self.kind != "command":
            found.append(f"name '{self.name}' is not an identifier")
        return found if isinstance(self._config, str) else [*found, *self._misfits(self._config)]

    def _misfits(self, config: type) -> Iterator[str]:
        """Yield the presets and the fields of `small` that the config's class does not have."""
        fields = {a.name for a in attrs.fields(config)} if attrs.has(config) else set()
        for preset, value in self._presets.items():
            if not isinstance(value, config | str):
                yield f"preset '{preset}' is no {config.__name__}"
        unknown = [key for key in self.scaled_down(laptop_site()) if key not in fields] if fields else []
        yield from (f"small: '{key}' is no field of {config.__name__}" for key in unknown)

    def _problems_of_a_command(self) -> list[str]:
        found = []
        if self._config is not NoConfig or self._presets:
            found.append("a command has neither config nor presets; its options are declared with its function")
        if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", self.name):
            found.append(f"name '{self.name}' is no word of lower-case letters, digits and dashes")
        if not self.summary.strip() or len((self.summary + self.group).splitlines()) != 1:
            found.append("summary and group are one line each, and a summary is needed for the listing")
        return found


class _Presets(Mapping[str, Any]):
    """The presets of a component: one given as text is imported when it is asked for."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._given = component._presets

    def __getitem__(self, name: str) -> object:
        given, config = self._given[name], self._component.config
        if not isinstance(given, str):
            return given
        try:
            found = _imported(given)
            found = found[name] if isinstance(found, Mapping) else found
        except Exception as error:
            raise ComponentError(f"preset '{name}': {given} does not load: {type(error).__name__}: {error}") from error
        if not isinstance(found, config):
            raise ComponentError(f"preset '{name}': {given} is no {config.__name__}")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def _imported(place: str) -> Any:
    """Import what ``"package.module:name"`` names."""
    module, _, attribute = place.partition(":")
    target: Any = importlib.import_module(module)
    for part in attribute.split("."):
        target = getattr(target, part)
    return target
