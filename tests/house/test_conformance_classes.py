"""Every component and every plugin of the project is tried by the conformance kit."""

from __future__ import annotations

import ast
import inspect
import sys

import pytest
from source_tree import nodes, package_files, python_files

from ldm_core import testing
from ldm_core.catalog import Catalog
from ldm_core.testing import Suite
from ldm_core.testing.rules import Rule


def suites_by_name() -> dict[str, str]:
    """Suite class name -> kind."""
    return {
        name: suite.kind
        for name, suite in vars(testing).items()
        if isinstance(suite, type) and issubclass(suite, Suite) and suite.kind
    }


def tried() -> set[tuple[str, str]]:
    """(kind, component or preset) of every conformance class in the repository."""
    kinds, found = suites_by_name(), set()
    for f in python_files():
        if not f.name.startswith("test_"):
            continue
        for node in nodes(f):
            if not isinstance(node, ast.ClassDef):
                continue
            bases = [ast.unparse(b).split(".")[-1] for b in node.bases]
            for item in node.body:
                if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "component":
                    value = ast.literal_eval(item.value) if isinstance(item.value, ast.Constant) else ""
                    found |= {(kinds[b], value) for b in bases if b in kinds}
    return found


def test_every_component_has_a_conformance_class() -> None:
    catalog, kinds, done = Catalog.discover(), set(suites_by_name().values()), tried()
    names: dict[tuple[str, str], set[str]] = {}
    for entry in catalog:
        component = entry.component
        if entry.distribution == "ldm-core" or entry.distribution.startswith("ldm-plugin-"):
            names[component.kind, component.name] = {component.name, *component.presets}
    if not names:
        pytest.skip("no distribution of the project is installed")
    missing = [
        f"{kind} '{name}'"
        for (kind, name), known in names.items()
        if kind in kinds and not any((kind, n) in done for n in known)
    ]
    assert not missing, f"without a conformance class: {', '.join(missing)}"


def test_every_plugin_module_has_a_plugin_suite() -> None:
    described = {
        ".".join(f.relative_to(f.parents[1]).with_suffix("").parts)
        for f in package_files()
        if f.name == "plugin.py" and "testing" not in f.parts and "templates" not in f.parts
    }
    seen = set()
    for f in python_files():
        for node in nodes(f) if f.name.startswith("test_") else ():
            if isinstance(node, ast.ClassDef) and any(ast.unparse(b).endswith("PluginSuite") for b in node.bases):
                for item in node.body:
                    if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
                        value = str(item.value.value)
                        seen.add(value if "." in value else value.replace("-", "_") + ".plugin")
    missing = {m for m in described if not any(s == m or s.endswith("." + m) for s in seen)}
    assert not missing, f"no PluginSuite for {sorted(missing)}"


def test_the_kit_quotes_lines_that_the_contracts_have() -> None:
    rules: dict[str, Rule] = {}
    for suite in testing.__all__:
        for name, test in inspect.getmembers(getattr(testing, suite), inspect.isfunction):
            if name.startswith("test_"):
                rules[f"{suite}.{name}"] = vars(test)["rule"]
    modules = [m for name, m in sys.modules.items() if name.startswith("ldm_core.testing.")]
    rules |= {f"{m.__name__}.{n}": r for m in modules for n, r in vars(m).items() if isinstance(r, Rule)}
    gone = []
    for place, rule in rules.items():
        said = " ".join((inspect.getdoc(rule.contract) or "").split())
        if rule.phrase not in said:
            gone.append(f"{place}: {rule.name} no longer says {rule.phrase!r}")
    assert not gone, "\n".join(["mend the phrase in the kit, or the contract:", *gone])
