"""Running a suite by hand, on a component that is not installed: how the kit itself is tested."""

from __future__ import annotations

import inspect
import itertools
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ldm_core.catalog import Catalog
from ldm_core.catalog.component import Component
from ldm_core.catalog.hookspecs import hookimpl
from ldm_core.testing.base import Suite
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


def failures(suite: type[Suite]) -> dict[str, str]:
    """Run every standard test of a suite outside pytest: name of each that fails -> what it said; skips pass."""
    found = {}
    for name, test in inspect.getmembers(suite, inspect.isfunction):
        if not name.startswith("test_"):
            continue
        for arguments in _parametrized(test):
            instance = suite()
            try:
                if isinstance(instance, DatasetSuite):
                    with tempfile.TemporaryDirectory() as folder:
                        instance._made = instance.make_data(Path(folder))
                        test(instance, **arguments)
                else:
                    test(instance, **arguments)
            except pytest.skip.Exception:
                continue
            except (Exception, pytest.fail.Exception) as error:
                found[name] = f"{type(error).__name__}: {error}"
    return found


def _parametrized(test: Any) -> Iterator[dict[str, Any]]:
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    for values in itertools.product(*(m.args[1] for m in marks)):
        yield {m.args[0]: v for m, v in zip(marks, values, strict=True)}
