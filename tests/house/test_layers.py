"""The floors of the house: an import goes to its own room or down, never in a circle, never into a plugin; and light
rooms import nothing heavy, so that listings, checks and errors come at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from measures import LAYERS, hold
from source_tree import ROOT, circles, graph, imports, modules, package_files, room, short

HEAVY = ("torch", "deepspeed", "timm", "s3fs", "matplotlib", "PIL", "sentencepiece", "diffusers", "transformers")
LIGHT = (
    "catalog",
    "cli",
    "config",
    "contracts",
    "data",
    "errors",
    "launch",
    "ldm_core",
    "recipe",
    "storage",
    "weights",
)
WITH_TORCH = {"ldm_core.contracts.streams", "ldm_core.data.collate", "ldm_core.weights.normalization"}
"""Files of those rooms that have torch in their signatures."""
MORE = {"ldm_core.model.parts"}
DESCRIPTORS = ("config", "plugin")
"""Files beside a part that describe it; they are imported for every listing."""
_PROGRAM = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    if found := [heavy for heavy in sys.argv[1].split() if heavy in sys.modules]:
        sys.exit(f"importing {name} imports {', '.join(found)}")
"""


def test_every_file_lies_in_a_room() -> None:
    outside = [n for n in modules() if n.startswith("ldm_core.") and room(n) not in LAYERS]
    assert not outside, f"rooms are {', '.join(LAYERS)}; outside of them: {outside}"


def test_imports_go_down() -> None:
    hold(
        "upward_imports",
        "import from lower layers alone, also inside functions and for types: move what both need down, or take it as "
        "an argument; reach builtin parts by name through the catalog",
    )


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f", "a"}}
    assert circles({node: frozenset(out) for node, out in edges.items()}) == [["a", "b", "c"], ["f"]]


def test_no_files_import_each_other() -> None:
    hold("files_in_circles", "put what both files need into a third, or join the two")


def test_no_folders_import_each_other() -> None:
    hold("folders_in_circles", "move the file that is needed on both sides into the folder below")


def test_the_shared_blocks_import_torch_alone() -> None:
    allowed = ("torch", "ldm_core.nn", "ldm_core.contracts.current", *sys.stdlib_module_names)
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
    wrong = [
        f"{name} imports {other}"
        for name, out in graph().items()
        for other in out
        if name.startswith("ldm_plugin_") and other.startswith("ldm_plugin_") and room(name) != room(other)
        # these two look at pictures by its networks
        if room(name) not in ("ldm_plugin_metrics", "ldm_plugin_image_guiding")
        or room(other) != "ldm_plugin_adversarial"
    ]
    assert not wrong, wrong


# -------------------------------------------------------------------------------------------------- light imports


def _imports_nothing_heavy(names: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, " ".join(HEAVY), *names],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", LIGHT)
def test_a_light_room_imports_nothing_heavy(where: str) -> None:
    core = (name for name in modules() if name.split(".")[0] == "ldm_core" and not name.endswith("__main__"))
    names = sorted(name for name in core if room(name) == where and name not in WITH_TORCH)
    assert names, f"no room {where}"
    _imports_nothing_heavy(names)


def test_descriptors_import_nothing_heavy() -> None:
    described = {
        n for n in modules() if n.startswith("ldm_") and n.split(".")[-1] in DESCRIPTORS and "testing" not in n
    }
    _imports_nothing_heavy(sorted(described | MORE))
