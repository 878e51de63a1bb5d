"""The distributions' metadata against each other and against what the code imports; the Makefile's one install."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import ldm_core
from ldm_core.catalog.first_party import FIRST_PARTY

ROOT = Path(__file__).parents[2]
STANDARD = {
    "plugins/adversarial": "ldm-plugin-adversarial",
    "plugins/kl_ae": "ldm-plugin-kl-ae",
    "plugins/vq_ae": "ldm-plugin-vq-ae",
    "plugins/ddim": "ldm-plugin-ddim",
    "plugins/samplers": "ldm-plugin-samplers",
    "plugins/cfg": "ldm-plugin-cfg",
    "plugins/diffusers": "ldm-plugin-diffusers",
    "plugins/autoguidance": "ldm-plugin-autoguidance",
    "plugins/annotations": "ldm-plugin-annotations",
    "plugins/idx": "ldm-plugin-idx",
    "plugins/curves": "ldm-plugin-curves",
    "plugins/datasheet": "ldm-plugin-datasheet",
    "plugins/degradations": "ldm-plugin-degradations",
    "plugins/distill": "ldm-plugin-distill",
    "plugins/feature_cache": "ldm-plugin-feature-cache",
    "plugins/compvis": "ldm-plugin-compvis",
    "plugins/image_guiding": "ldm-plugin-image-guiding",
    "plugins/metrics": "ldm-plugin-metrics",
    "plugins/multidiffusion": "ldm-plugin-multidiffusion",
    "plugins/report": "ldm-plugin-report",
    "plugins/serve": "ldm-plugin-serve",
    "plugins/study": "ldm-plugin-study",
    "plugins/tiny_decoder": "ldm-plugin-tiny-decoder",
    "plugins/wavelet": "ldm-plugin-wavelet",
    "conditioners/bert_text": "ldm-plugin-bert-text",
    "conditioners/semantic_map": "ldm-plugin-semantic-map",
    "conditioners/bbox_layout": "ldm-plugin-bbox",
    "conditioners/class_label": "ldm-plugin-class-label",
    "conditioners/embedding": "ldm-plugin-embedding",
    "conditioners/low_resolution": "ldm-plugin-low-resolution",
    "conditioners/masked_image": "ldm-plugin-masked-image",
}
"""Folder -> distribution of every plugin that the extra `standard` brings."""
OBSERVERS = {"plugins/tensorboard": "ldm-plugin-tensorboard", "plugins/wandb": "ldm-plugin-wandb"}
BY_NAME = OBSERVERS | {
    "conditioners/clip_text": "ldm-plugin-clip-text",
    "plugins/hub": "ldm-plugin-hub",
    "plugins/onnx": "ldm-plugin-onnx",
    "plugins/openvino": "ldm-plugin-openvino",
    "plugins/parquet": "ldm-plugin-parquet",
}
"""Those that are installed by name alone: they bring packages that a run does not need."""
PLUGINS = STANDARD | BY_NAME
MODULES = {"PIL": "pillow", "yaml": "pyyaml", "huggingface_hub": "huggingface_hub"}
"""Modules whose distribution has another name, or is called so."""


def metadata(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement)[0].lower()


def test_every_plugin_folder_is_known() -> None:
    found = [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("conditioners/*/pyproject.toml")]
    assert {p.parent.relative_to(ROOT).as_posix() for p in found} == set(PLUGINS)


@pytest.mark.parametrize("folder", PLUGINS)
def test_one_rule_of_names(folder: str) -> None:
    """Folder a_b -> distribution ldm-plugin-a-b -> package ldm_plugin_a_b -> entry point a_b; one exception."""
    project = metadata(folder)["project"]
    short = Path(folder).name
    word = {"bbox_layout": "bbox"}.get(short, short)
    assert project["name"] == PLUGINS[folder] == f"ldm-plugin-{word.replace('_', '-')}"
    package = f"ldm_plugin_{word}"
    assert project["entry-points"] == {"ldm_core": {short: f"{package}.plugin"}}
    assert metadata(folder)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [package]
    for file in ("__init__.py", "plugin.py", "py.typed"):
        assert (ROOT / folder / package / file).is_file(), file
    described = import_module(f"{package}.plugin").ldm_components()
    if any(component.kind != "command" for component in described):  # a command's options stand with its function
        assert list((ROOT / folder / package).rglob("config.py")), "options stand in config.py, of package or folder"
    assert (ROOT / folder / package / "__init__.py").read_text().count("\n") <= 1


@pytest.mark.parametrize("folder", [".", *PLUGINS])
def test_metadata_python_and_licence(folder: str) -> None:
    project = metadata(folder)["project"]
    assert project["dynamic"] == ["readme", "urls", "version"], "made when it is built, by .ci/distribution.py"
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "MIT"
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / folder / "README.md").is_file()
    assert not [r for r in project["dependencies"] if "==" in r or "@" in r], "ranges, no pins and no URLs"


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugins_need_this_core_and_no_other_plugin(folder: str) -> None:
    """But for first stages, which name the loss that they are trained with, metrics and image guiding, which have its
    networks, studies, which call the command `evaluate`, and conditioners, each of which brings all that a latent
    diffusion model with guidance needs."""
    needs = metadata(folder)["project"]["dependencies"]
    major, minor, _ = ldm_core.__version__.split(".")
    assert f"ldm-core>={major}.{minor},<{major}.{int(minor) + 1}" in needs
    named = {f"plugins/{name}": "adversarial" for name in ("image_guiding", "kl_ae", "metrics", "vq_ae")}
    named["plugins/study"] = "metrics"
    wanted = [f"ldm-plugin-{named[folder]}"] if folder in named else []
    if folder.startswith("conditioners/"):
        wanted = ["ldm-plugin-cfg", "ldm-plugin-ddim", "ldm-plugin-vq-ae"]
    assert [name_of(n) for n in needs if n.startswith("ldm-plugin")] == wanted


def test_extras_of_the_core() -> None:
    project = metadata(".")["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {"standard", "s3", "hub", "parquet", "testing", "docs", "dev"}
    assert sorted(extras["standard"]) == sorted(STANDARD.values())
    assert [name_of(r) for r in extras["s3"]] == ["s3fs", "aiohttp"]
    assert [name_of(r) for r in extras["hub"]] == ["huggingface_hub"]
    assert extras["parquet"] == ["ldm-plugin-parquet"]
    assert "pytest" in map(name_of, extras["testing"])
    assert not [n for n in project["dependencies"] if n.startswith("ldm-")], "the core needs no plugin"
    assert project["scripts"] == {"ldm-run": "ldm_core.cli:main"}
    assert project["entry-points"] == {"ldm_core": {"builtin": "ldm_core.builtin.plugin"}}


def test_the_answer_for_a_missing_part_names_what_brings_it() -> None:
    """The catalog's table of first-party names is what the plugins describe: components and presets."""
    described = {}
    for folder, distribution in PLUGINS.items():
        (module,) = metadata(folder)["project"]["entry-points"]["ldm_core"].values()
        for component in import_module(module).ldm_components():
            for name in {component.name, *component.presets}:
                described[component.kind, name] = distribution
    assert described == FIRST_PARTY


def imports(package: Path) -> Iterator[str]:
    """Top-level modules that a package imports anywhere, lazily or not."""
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", [".", *PLUGINS])
def test_what_is_imported_is_declared(folder: str) -> None:
    data = metadata(folder)
    (package,) = data["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    declared = {name_of(r) for r in data["project"]["dependencies"]}
    if folder == ".":
        declared |= {name_of(r) for r in data["project"]["optional-dependencies"]["testing"]}  # ldm_core.testing
        declared |= {"aiohttp"}  # of the extra s3; imported once a web address is read
        declared |= {"huggingface_hub"}  # of the extra hub; imported once an address of the Hub is read
    else:
        extras = data["project"].get("optional-dependencies", {}).values()
        declared |= {name_of(r) for group in extras for r in group}  # imported by one part, with a line that names it
    used = set(imports(ROOT / folder / package)) - {package} - set(sys.stdlib_module_names)
    assert {MODULES.get(name, name.replace("_", "-")) for name in used} <= declared


def test_mypy_knows_every_distribution() -> None:
    assert set(PLUGINS) <= set(metadata(".")["tool"]["mypy"]["mypy_path"])


def commands(*target: str) -> list[str]:
    """The command lines that make would run for a target in a fresh clone."""
    line = ["make", "-n", "-B", "-C", str(ROOT), *target]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
@pytest.mark.parametrize("target", [(".venv/installed-run",), (".venv/installed-dev",), ("test", "LATEST=1")])
def test_siblings_are_installed_by_path_in_one_call(target: tuple[str, ...]) -> None:
    """So that no name that is not published is ever looked for in an index."""
    (call,) = [row for row in commands(*target) if " pip install" in row]
    for folder in PLUGINS:
        assert f"-e ./{folder}" in call
    assert re.search(r"torch==[0-9.]+", call), "plain torch would bring CUDA packages"


@needs_make
def test_tested_versions_are_installed_unless_the_newest_are_asked_for() -> None:
    for target in ("demo", "test", "lint"):
        assert "-c .ci/constraints.txt" in " ".join(commands(target)), target
    newest = " ".join(commands("test", "LATEST=1"))
    assert "constraints" not in newest and "--upgrade-strategy eager" in newest
    assert ".venv/" not in newest, "the newest versions have an environment of their own"


@needs_make
def test_wheels_need_hatchling_alone() -> None:
    installs = [row for row in commands("wheels") if " pip install" in row]
    assert [row.split()[-1] for row in installs] == ["hatchling"]


@needs_make
def test_tools_of_a_release_have_tested_versions() -> None:
    (call,) = [row for row in commands("release") if " pip install" in row and "twine" in row]
    rows = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert call.split()[-2:] == ["build", "twine"] and "-c .ci/constraints.txt" in call
    assert {"build", "twine"} <= {row.partition("==")[0] for row in rows}


def test_every_requirement_has_a_tested_version() -> None:
    rows = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {name_of(row.partition("==")[0]): row.partition("==")[2] for row in rows if not row.startswith("#")}
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in tested.values())
    data = [metadata(folder)["project"] for folder in (".", *PLUGINS)]
    wanted = {name_of(r) for project in data for r in project.get("dependencies", ())}
    extras = [
        *data[0]["optional-dependencies"].values(),
        *metadata("plugins/serve")["project"]["optional-dependencies"].values(),
    ]
    wanted |= {name_of(r) for group in extras for r in group}  # make install, and make browser
    assert {name for name in wanted if not name.startswith("ldm-")} - {"torch"} <= tested.keys()
    assert not {"torch", "torchvision"} & tested.keys(), "the builds of torch are the Makefile's to choose"


def test_ci_runs_what_the_readme_names() -> None:
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    for command in ("make lint", "make test"):
        assert command in ci.read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make demo", "make test"):
        assert command in readme


def test_the_changelog_has_this_version() -> None:
    assert f"## {ldm_core.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
