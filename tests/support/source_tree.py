"""The repository as the house rules see it: its files, their syntax trees and the modules that they import."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = next(parent for parent in Path(__file__).parents if (parent / "ldm_core").is_dir())
Function = ast.FunctionDef | ast.AsyncFunctionDef


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
    """Every Python file of the repository."""
    return [f for f in files() if f.suffix == ".py"]


def package_files() -> list[Path]:
    """Python files that are shipped: the core, the plugins and the conditioners, without their tests."""
    return [
        f
        for f in python_files()
        if (parts := short(f).split("/"))[0] in ("ldm_core", "plugins", "conditioners") and "tests" not in parts
    ]


def short(path: Path) -> str:
    """A file by its path in the repository."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """The nodes of a file's syntax tree: many rules look at all of them."""
    return tuple(ast.walk(tree(path)))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, at any depth, as they are written."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)}:{node.lineno}: a relative import"
            yield node.module or ""


def module_of(path: Path) -> str:
    """The name that a file is imported by; tests and their support are imported by their bare names."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    package = next((i for i, part in enumerate(parts) if part.startswith("ldm_") and "tests" not in parts[:i]), None)
    return ".".join(parts[package:]) if package is not None else parts[-1]


@cache
def modules() -> dict[str, Path]:
    """Every module of the repository by name."""
    return {module_of(f): f for f in python_files() if f.name != "conftest.py"}


@cache
def graph() -> dict[str, frozenset[str]]:
    """Module -> modules of the repository that it imports, at any depth and for types alone too.

    ``from a import b`` imports the module ``a.b`` where there is one, else ``a``.
    """
    known, found = modules(), {}
    for name, path in known.items():
        out = {n for n in imports(path) if n in known}
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                out |= inner & known.keys()
                if inner <= known.keys():
                    out.discard(node.module)
        found[name] = frozenset(out - {name})
    return found


def room(module: str) -> str:
    """The core's package that a module lies in (``ldm_core`` itself for its face), or a plugin's package."""
    parts = module.split(".")
    return parts[1] if parts[0] == "ldm_core" and len(parts) > 1 else parts[0]


def folder(module: str) -> str:
    """The package that a module lies in, by its full name."""
    path = modules()[module]
    return module if path.name == "__init__.py" else module.rpartition(".")[0] or module


def circles(edges: dict[str, frozenset[str]]) -> list[list[str]]:
    """Groups of two and more nodes that reach one another."""
    reached = {node: _reached(node, edges) for node in edges}
    groups = {tuple(sorted({n} | {o for o in reached[n] if n in reached[o]})) for n in edges if n in reached[n]}
    return sorted(list(group) for group in groups)


def _reached(node: str, edges: dict[str, frozenset[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [node]
    while todo:
        new = edges[todo.pop()] - seen
        seen |= new
        todo.extend(new)
    return seen


def definitions(path: Path) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Every function and class of a file with its qualified name, nested ones too."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function | ast.ClassDef):
                yield prefix + child.name, child
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(tree(path), "")


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring, of attributes too: a string after an assignment."""
    for node in nodes(path):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for number, statement in enumerate(body):
            first = number == 0 and isinstance(node, ast.Module | ast.ClassDef | Function)
            after = number > 0 and isinstance(body[number - 1], ast.Assign | ast.AnnAssign)
            value = statement.value if isinstance(statement, ast.Expr) else None
            if (first or after) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value.strip()
