"""Docstrings that can be read once, and messages of a library instead of a command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from measures import OPENERS, hold
from source_tree import package_files, short, tree

from ldm_core import contracts, testing
from ldm_core.testing import Suite


def test_docstrings_begin_with_the_thing() -> None:
    hold("odd_docstrings", f"say first what it is or does; none begins with {', '.join(OPENERS)}")


def test_sentences_are_plain() -> None:
    hold("relative_words", "of a hundred words, so many are that, which, what, whose or where: subject, verb, object")


def test_the_library_does_not_speak_of_options() -> None:
    hold("spoken_flags", "say the recipe's key or the argument; ldm_core.cli turns keys into options")


def contract_methods() -> set[str]:
    """Names that a contract or torch documents, so that an implementation need not say it again."""
    names = {"forward", "extra_repr", "get_extra_state", "set_extra_state"}
    for contract in (getattr(contracts, name) for name in dir(contracts)):
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
