"""Runs a suite by hand, on a component that is not installed: the kit's own tests need it."""

from __future__ import annotations

import inspect
import itertools
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.testing.base import Suite
from ldm_core.testing.rules import message
from ldm_core.testing.suites.dataset import DatasetSuite

_MODULE = "ldm_core_testing_by_hand"
_count = itertools.count()


def catalog_of(kind: str, name: str, config: type, factory: Callable[..., Any]) -> Catalog:
    """A catalog that discovers nothing and holds one component, built by the callable `factory(config, site)`."""
    module = sys.modules.setdefault(_MODULE, types.ModuleType(_MODULE))
    attribute = f"factory_{next(_count)}"
    setattr(module, attribute, factory)
    component = Component(kind=kind, name=name, config=config, factory=f"{_MODULE}:{attribute}", summary="made by hand")

    class Plugin:
        @hookimpl
        def ldm_components(self) -> list[Component]:
            """The one component."""
            return [component]

    catalog = Catalog()
    catalog.register(Plugin(), attribute)
    assert not catalog.broken, catalog.broken[0].error
    return catalog


def failures(suite: type[Suite], only: str = "") -> dict[str, str]:
    """Run the standard tests of a suite, or `only` one, outside pytest: each that fails -> its message; skips pass."""
    found: dict[str, str] = {}
    for name, test in inspect.getmembers(suite, inspect.isfunction):
        if not name.startswith("test_") or (only and name != only):
            continue
        for arguments in _parametrized(test):
            with tempfile.TemporaryDirectory() as folder, suppress(pytest.skip.Exception):
                try:
                    _run(suite(), test, arguments, Path(folder))
                except (Exception, pytest.fail.Exception) as error:
                    found.setdefault(name, message(error))
    return found


def _run(instance: Suite, test: Any, arguments: dict[str, Any], folder: Path) -> None:
    """One test, with the fixtures that the kit's tests ask for."""
    if isinstance(instance, DatasetSuite):
        instance._made = instance.make_data(folder)
    if "tmp_path" in inspect.signature(test).parameters:
        arguments = {**arguments, "tmp_path": folder}
    test(instance, **arguments)


def _parametrized(test: Any) -> Iterator[dict[str, Any]]:
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    for values in itertools.product(*(m.args[1] for m in marks)):
        yield {m.args[0]: v for m, v in zip(marks, values, strict=True)}
