"""How much a reader has to take in at once: files, folders, functions, classes, packages."""

from __future__ import annotations

from pathlib import Path

import pytest
import source_tree
from measures import MOST_FILES, MOST_LINES, MOST_PARAMETERS, hold
from source_tree import python_files, short

LONGEST = 400
"""Lines of a file."""


def test_no_file_is_longer_than_a_reader_bears() -> None:
    long = {short(f): n for f in python_files() if (n := len(f.read_text(encoding="utf-8").splitlines())) > LONGEST}
    assert not long, f"more than {LONGEST} lines: {long}"


def test_no_folder_is_fuller_than_a_reader_bears() -> None:
    hold("full_folders", f"more than {MOST_FILES} Python files: make a folder of those that share a noun")


def test_functions_are_short() -> None:
    hold("long_functions", f"more than {MOST_LINES} lines: give its steps names")


def test_classes_are_short() -> None:
    hold("long_classes", "more than 200 lines: it holds more than one thing")


def test_functions_have_few_parameters() -> None:
    hold("many_parameters", f"more than {MOST_PARAMETERS}: put those that travel together into a frozen class")


def test_packages_do_not_grow() -> None:
    hold("lines", "a package has a budget; to raise it, say why in the commit's message")


def test_fewer_values_are_of_any_type() -> None:
    hold("untyped", "say the type, or a Protocol; Any hides mistakes from mypy")


def test_fewer_functions_are_waived() -> None:
    hold("waived", "make the function simpler instead of a noqa")


def test_the_rules_see_the_packages_wherever_the_checkout_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path("/tests/clone")
    names = (
        "ldm_core/errors.py",
        "plugins/cfg/ldm_plugin_cfg/guidance.py",
        "plugins/cfg/tests/test_cfg.py",
        "tests/a.py",
    )
    monkeypatch.setattr(source_tree, "ROOT", root)
    monkeypatch.setattr(source_tree, "files", lambda: [root / name for name in names])
    assert source_tree.package_files() == [root / name for name in names[:2]]
