"""The conformance suite of a whole plugin: the descriptors of its module."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from typing import Any, ClassVar

import click

from ldm_core.catalog import Catalog, hookspecs
from ldm_core.catalog.catalog import GROUP
from ldm_core.catalog.component import API_VERSION, Component, laptop_site
from ldm_core.config.documents import dump_yaml, parse_yaml
from ldm_core.config.structure import structure, unstructure
from ldm_core.contracts import Config, configs
from ldm_core.testing.base import Suite
from ldm_core.testing.config_class import FROZEN, NAMES, check_config_class, misspelt_names
from ldm_core.testing.rules import Rule

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "deepspeed",
    "s3fs",
    "sentencepiece",
    "diffusers",
    "transformers",
    "matplotlib",
)
"""Modules that describing a plugin must not import."""

_PROBE = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
components = list(module.ldm_components())
for component in components:
    if component.kind == "command":
        component.load()
heavy = [name for name in sys.argv[2:] if name in sys.modules]
print(json.dumps({"components": len(components), "heavy": heavy}))
"""


def _program() -> str:
    """The name under which the command line is installed."""
    scripts = metadata.entry_points(group="console_scripts")
    return next(script.name for script in scripts if script.value == "ldm_core.cli:main")


class PluginSuite(Suite):
    """Subclass it, set `module` to the plugin's module, or `distribution` to its distribution's name."""

    module: ClassVar[str] = ""
    distribution: ClassVar[str] = ""

    def modules(self) -> list[str]:
        """The modules to look at: `module`, or those of the distribution's entry points."""
        if self.module:
            return [self.module]
        assert self.distribution, f"{type(self).__name__}: set module or distribution"
        points = metadata.entry_points(group=GROUP)
        found = sorted({p.value for p in points if p.dist is not None and p.dist.name == self.distribution})
        assert found, f"'{self.distribution}' is not installed, or has no entry point in the group '{GROUP}'"
        return found

    def components(self) -> Iterator[Component]:
        """Everything that the plugin describes."""
        for name in self.modules():
            yield from importlib.import_module(name).ldm_components()

    @Rule(
        Component,
        "`name` is unique within its kind",
        "install the distribution (pip install -e FOLDER); or look at the error: it names the module that fails, or "
        "the name that comes twice",
    )
    def test_builds_by_name(self) -> None:
        """The catalog takes the plugin in whole: nothing broken, every component and preset found by its name."""
        catalog = Catalog()
        for name in self.modules():
            catalog.register(importlib.import_module(name), name)
        assert not catalog.broken, "; ".join(b.error for b in catalog.broken)
        for component in self.components():
            for name in {component.name, *component.presets}:
                assert catalog.get(component.kind, name)[0].component.name == component.name

    @Rule(
        Component,
        "`api` is the descriptor's plugin API",
        "describe each part with ldm_core.Component, and install a core that speaks the plugin's API",
    )
    def test_meets_the_protocol(self) -> None:
        """Each descriptor is a Component of this plugin API, and finds nothing wrong with itself."""
        found = list(self.components())
        assert found, "the plugin describes no component"
        for component in found:
            assert isinstance(component, Component), f"{component!r} is no Component"
            assert component.api == API_VERSION, f"'{component.name}' is written for plugin API {component.api}"
            assert not component.problems(), f"'{component.name}': {'; '.join(component.problems())}"

    @FROZEN
    def test_config_is_frozen_and_round_trips(self) -> None:
        """Configs are frozen and by keyword; presets and defaults come back equal from YAML; `small` scales them."""
        for component in self.components():
            check_config_class(component.config)
            for name, preset in self._configs(component):
                text = dump_yaml(unstructure(preset))
                back: Any = structure(parse_yaml(text, name), component.config)
                assert back == preset, f"'{name}' of '{component.name}' does not come back equal from YAML:\n{text}"
                small = unstructure(component.scaled_down(laptop_site()))
                structure({**unstructure(preset), **small}, component.config, f"small {name}")

    @Rule(
        Config.check,
        "Yield a line for each thing that does not fit",
        "make check a method: check(self, site) yields lines",
    )
    def test_config_check_passes(self) -> None:
        """A config's `check`, where it has one, can be called."""
        for component in self.components():
            assert callable(configs.of(Config, component.config).check), f"'{component.name}': check is no method"

    @NAMES
    def test_optional_names_are_spelt_as_in_the_contract(self) -> None:
        """No public name of a config or a part's class is nearly an optional name of its contract."""
        slips: list[str] = []
        for component in self.components():
            factory: Any = None
            with suppress(ImportError, AttributeError):  # another test tells of a factory that is not there
                factory = component.load()
            slips += misspelt_names(component.kind, component.config, factory if isinstance(factory, type) else None)
        assert not slips, "; ".join(slips)

    @Rule(
        hookspecs.ldm_components,
        "must not import what it describes",
        "import it in the function that uses it, or in the module that the factory names",
    )
    def test_describing_imports_nothing_heavy(self) -> None:
        """In a fresh process, importing the module, its descriptors and its commands leaves the heavy modules out."""
        for name in self.modules():
            path = os.pathsep.join(p for p in sys.path if p)
            done = subprocess.run(
                [sys.executable, "-c", _PROBE, name, *HEAVY],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                check=False,
            )
            assert done.returncode == 0, f"describing {name} fails:\n{done.stderr[-2000:]}"
            heavy = json.loads(done.stdout.strip().splitlines()[-1])["heavy"]
            assert not heavy, f"describing {name} imports {', '.join(heavy)}"

    @Rule(
        Component,
        "`factory` is text",
        'spell the factory as "package.module:callable", with a module that is installed',
    )
    def test_every_factory_imports(self) -> None:
        """The one string of each descriptor leads to something that can be called."""
        for component in self.components():
            assert callable(component.load()), f"{component.factory} cannot be called"

    @Rule(
        Component,
        "its `factory` names the result of :func:`ldm_core.cli.command`",
        "decorate the function with ldm_core.cli.command, and give it a docstring, and each option a help text",
    )
    def test_every_command_explains_itself(self) -> None:
        """A command is one of click's, made by ldm_core.cli.command; its help fits a terminal and tells all options."""
        for component in self.components():
            if component.kind != "command":
                continue
            program, command = _program(), component.load()
            assert isinstance(command, click.Command), f"{component.factory} is no command"
            assert command.help, f"'{component.name}': its function has no docstring, which is the command's help"
            silent = [p.name for p in command.params if not getattr(p, "hidden", False) and not getattr(p, "help", "")]
            assert not silent, f"'{component.name}' says nothing of {', '.join(map(str, silent))}"
            # in its own settings: click keeps the help option of the first context that asks for it
            settings = {**command.context_settings, "info_name": f"{program} {component.name}", "terminal_width": 80}
            context = click.Context(command, **settings)
            wide = [line for line in command.get_help(context).splitlines() if len(line) > 80]
            assert not wide, f"'{component.name}': lines of its help are wider than 80 columns: {wide}"
            every = [command, *getattr(command, "commands", {}).values()]  # a group's examples call its commands
            known = {flag for each in every for param in each.params for flag in param.opts}
            for line in getattr(command, "examples", ()):
                words = shlex.split(line)
                assert f"{program} {component.name}" in line, f"'{component.name}': {line} is no call of it"
                unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - known
                assert not unknown, f"'{component.name}': no option is called {', '.join(unknown)}, as in: {line}"

    @Rule(Component, "`summary` is one line", 'give summary="..." of one line')
    def test_every_component_has_a_summary(self) -> None:
        """One line that listings show."""
        for component in self.components():
            summary = component.summary.strip()
            assert summary, f"'{component.name}' has no summary"
            assert "\n" not in summary, f"the summary of '{component.name}' has more than one line"

    @staticmethod
    def _configs(component: Component) -> Iterator[tuple[str, Any]]:
        yield from component.presets.items()
        try:
            yield "default", component.config()
        except TypeError:
            return  # a field without a default
