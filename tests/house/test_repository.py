"""The repository's files: their places and names, and nothing in them that belongs to one machine or is unfinished."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml
from source_tree import ROOT, files, nodes, python_files, short

import ldm_core

TOP_LEVEL = {
    *("ldm_core", "plugins", "conditioners", "examples", "tests", "docs"),
    *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"),
}


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
        for name in ("README.md", *(f"{package}/{n}" for n in ("__init__.py", "plugin.py", "py.typed"))):
            assert f"{folder}/{name}" in known, f"{folder} has no {name}"


def test_what_a_forge_looks_for_is_there() -> None:
    """A citation, the way to report a hole, a code of conduct: beside the workflow, not at the top level."""
    folder = ROOT / ".github"
    citation = yaml.safe_load((folder / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (ldm_core.__version__, "MIT")
    (paper,) = citation["references"]
    assert paper["url"].rpartition("/")[2] in (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md"):
        text = (folder / name).read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#]+)", text)
        assert all((folder / link).is_file() for link in links), links
        assert f".github/{name}" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "docs/security.md" in (folder / "SECURITY.md").read_text(encoding="utf-8")


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
        for node in nodes(f):
            if isinstance(node, ast.Raise) and node.exc is not None and "NotImplemented" in ast.unparse(node.exc):
                found.append(f"{short(f)}:{node.lineno}: NotImplementedError")
    assert not found, found
