"""What holds everywhere in the repository: light imports, layers, sizes, names, docstrings, one suite a component."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ldm_core import contracts, testing
from ldm_core.catalog import Catalog
from ldm_core.testing import Suite

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {
    *("ldm_core", "plugins", "conditioners", "examples", "tests", "docs"),
    *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"),
}
LIGHT = (
    "ldm_core",
    "ldm_core.recipe.artifacts",
    "ldm_core.catalog",
    "ldm_core.recipe.check",
    "ldm_core.cli",
    "ldm_core.catalog.component",
    "ldm_core.contracts.conditioning",
    "ldm_core.config",
    "ldm_core.contracts",
    "ldm_core.recipe.description",
    "ldm_core.config.documents",
    "ldm_core.errors",
    "ldm_core.catalog.hookspecs",
    "ldm_core.recipe.places",
    "ldm_core.recipe",
    "ldm_core.recipe.resolve",
    "ldm_core.recipe.settings",
    "ldm_core.recipe.sizes",
    "ldm_core.contracts.values",
    "ldm_core.weights.describe",
    "ldm_core.weights.source",
)
HEAVY = ("torch", "deepspeed", "timm", "s3fs", "matplotlib", "PIL", "sentencepiece", "diffusers", "transformers")
LONGEST = 400
"""Lines of a file that a reader still takes in."""


@cache
def files() -> tuple[Path, ...]:
    """Every file of the repository that git does not ignore."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return tuple(ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file())


def python_files() -> list[Path]:
    return [f for f in files() if f.suffix == ".py"]


def package_files() -> list[Path]:
    """Python files that are shipped: the core, the plugins and the conditioners, without their tests."""
    return [
        f
        for f in python_files()
        if short(f).split("/")[0] in ("ldm_core", "plugins", "conditioners") and "tests" not in f.parts
    ]


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at whatever depth."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)}:{node.lineno}: a relative import"
            yield node.module or ""


# -------------------------------------------------------------------------------------------------- light imports


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    path = ROOT.joinpath(*module.split("."))
    if not (path.with_suffix(".py").exists() or (path / "__init__.py").exists()):
        pytest.skip(f"{module} does not exist")
    code = f"import sys, {module}; print(*(n for n in {HEAVY!r} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join([str(ROOT), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"importing {module} imports {done.stdout.strip()}"


# --------------------------------------------------------------------------------------------------------- layers


def test_the_shared_blocks_import_torch_only() -> None:
    allowed = ("torch", "ldm_core.nn", *sys.stdlib_module_names)
    configs = ("attrs", "ldm_core.contracts", *sys.stdlib_module_names)
    wrong = [
        f"{short(f)} imports {name}"
        for f in package_files()
        if short(f).startswith("ldm_core/nn/")
        for name in imports(f)
        if not any(name == a or name.startswith(a + ".") for a in (configs if f.stem.endswith("_config") else allowed))
    ]
    assert not wrong, wrong


def test_the_core_never_imports_a_plugin() -> None:
    wrong = [
        f"{short(f)} imports {name}"
        for f in package_files()
        if short(f).startswith("ldm_core/")
        for name in imports(f)
        if name.startswith("ldm_plugin_")
    ]
    assert not wrong, wrong


def test_plugins_never_import_each_other() -> None:
    wrong = []
    for f in package_files():
        parts = short(f).split("/")
        if parts[0] in ("plugins", "conditioners"):
            own = parts[2]
            wrong += [
                f"{short(f)} imports {name}"
                for name in imports(f)
                if name.startswith("ldm_plugin_") and name.split(".")[0] != own
            ]
    assert not wrong, wrong


# --------------------------------------------------------------------------------------------------- files and names


def test_no_file_is_longer_than_a_reader_bears() -> None:
    long = {short(f): n for f in python_files() if (n := len(f.read_text(encoding="utf-8").splitlines())) > LONGEST}
    assert not long, f"more than {LONGEST} lines: {long}"


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils", "util", "misc", "helpers", "helper", "common"}
    wrong = [short(f) for f in files() if f.stem in vague or vague & set(f.relative_to(ROOT).parts)]
    assert not wrong, wrong


def test_the_top_level_is_fixed() -> None:
    entries = {short(f).split("/")[0] for f in files()}
    unknown = {e for e in entries if not e.startswith(".")} - TOP_LEVEL
    assert not unknown, f"the top level holds {sorted(unknown)}"


def test_test_files_have_names_of_their_own() -> None:
    names: dict[str, list[str]] = {}
    for f in python_files():
        if f.name.startswith("test_"):
            names.setdefault(f.name, []).append(short(f))
    twice = {n: where for n, where in names.items() if len(where) > 1}
    assert not twice, twice


def test_every_distribution_has_the_same_files() -> None:
    known = {short(f) for f in files()}
    for pyproject in sorted(f for f in files() if f.name == "pyproject.toml"):
        folder = short(pyproject.parent)
        if folder.split("/")[0] not in ("plugins", "conditioners"):
            continue
        (package,) = {n.split("/")[2] for n in known if n.startswith(f"{folder}/ldm_plugin_")}
        for name in ("README.md", *(f"{package}/{n}" for n in ("__init__.py", "plugin.py", "config.py", "py.typed"))):
            assert f"{folder}/{name}" in known, f"{folder} has no {name}"


def test_no_paths_of_a_machine_and_no_registries() -> None:
    machine = re.compile(r"(?<![\w.:/}*])/(?:work|root|home|Users)/\w|/tmp/\w|pythonhosted|/opt/pypi")
    found = []
    for f in files():
        try:
            text = f.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if f == Path(__file__):
            continue
        found += [
            f"{short(f)}:{i}: {line.strip()[:80]}"
            for i, line in enumerate(text.splitlines(), 1)
            if machine.search(line)
        ]
    assert not found, found


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
    found = []
    for f in python_files():
        text = f.read_text(encoding="utf-8")
        found += [f"{short(f)}:{i}" for i, line in enumerate(text.splitlines(), 1) if marks.search(line)]
        for node in ast.walk(tree(f)):
            if isinstance(node, ast.Raise) and node.exc is not None and "NotImplemented" in ast.unparse(node.exc):
                found.append(f"{short(f)}:{node.lineno}: NotImplementedError")
    assert not found, found


# ------------------------------------------------------------------------------------------------------ docstrings


def contract_methods() -> set[str]:
    """Names that a contract or torch documents, so that an implementation need not say it again."""
    names = {"forward", "extra_repr", "get_extra_state", "set_extra_state"}
    for contract in vars(contracts).values():
        if isinstance(contract, type) and getattr(contract, "_is_protocol", False):
            names |= {n for n in vars(contract) if not n.startswith("_")}
    # of configs, documented with the contracts; hooks, documented with their specs; the kit's own hooks for authors
    names |= {"latent", "accepts", "reads", "spec", "check", "from_data", "fit", "prepare", "needs_null"}
    for suite in vars(testing).values():
        if isinstance(suite, type) and issubclass(suite, Suite):
            names |= {n for n in vars(suite) if not n.startswith("_")}
    return names | {"ldm_components"}


def undocumented(path: Path, inherited: set[str]) -> Iterator[str]:
    module = tree(path)
    if path.name != "__init__.py" and ast.get_docstring(module) is None:
        yield f"{short(path)}: the module"
    for node in module.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and node.name not in inherited:
            yield f"{short(path)}:{node.lineno}: {node.name}"
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if (
                    isinstance(item, ast.FunctionDef)
                    and not item.name.startswith("_")
                    and ast.get_docstring(item) is None
                    and item.name not in inherited
                    and not any("setter" in ast.unparse(d) or "overload" in ast.unparse(d) for d in item.decorator_list)
                ):
                    yield f"{short(path)}:{item.lineno}: {node.name}.{item.name}"


def test_every_public_name_has_a_docstring() -> None:
    inherited = contract_methods()
    wrong = [line for f in package_files() for line in undocumented(f, inherited)]
    assert not wrong, "without a docstring:\n" + "\n".join(wrong)


# ------------------------------------------------------------------------------------------------------ conformance


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
        for node in ast.walk(tree(f)):
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
        for node in ast.walk(tree(f)) if f.name.startswith("test_") else ():
            if isinstance(node, ast.ClassDef) and any(ast.unparse(b).endswith("PluginSuite") for b in node.bases):
                for item in node.body:
                    if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
                        value = str(item.value.value)
                        seen.add(value if "." in value else value.replace("-", "_") + ".plugin")
    missing = {m for m in described if not any(s == m or s.endswith("." + m) for s in seen)}
    assert not missing, f"no PluginSuite for {sorted(missing)}"
