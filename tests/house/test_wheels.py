"""Wheels of all distributions: they build, hold what they need, and run where nothing else of ldm-core is installed."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from email.message import Message
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image

import ldm_core

ROOT = Path(__file__).parents[2]
PROJECTS = [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("conditioners/*/pyproject.toml")]
FOLDERS = [".", *sorted(p.parent.relative_to(ROOT).as_posix() for p in PROJECTS)]
TINY = [
    "image_size=16",
    "denoiser.channels=32",
    "denoiser.heads=2",
    "trainer.images_per_step=4",
    "first_stage_trainer.steps=2",
    "first_stage_trainer.images_per_step=4",
    "--train-steps",
    "2",
    "--sample-steps",
    "2",
    "sample.images=2",
]
SCENES = ["dataset.scenes=16", "dataset.val_scenes=4"]

BUILD = """
import os, sys
from hatchling import build
for folder in sys.argv[2:]:
    os.chdir(folder)
    build.build_wheel(sys.argv[1])
"""
"""What pip calls, of all distributions in one process."""

pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed (extra 'dev')")


def run(*line: object, folder: Path | None = None, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """A command without this process's Python settings; `path` replaces PATH."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LDM_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if path is not None:
        environment["PATH"] = path
    command = [str(word) for word in line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folder of a distribution -> its wheel, built from the tree as it is."""
    made = tmp_path_factory.mktemp("wheels")
    done = run(sys.executable, "-c", BUILD, made, *(ROOT / folder for folder in FOLDERS))
    assert done.returncode == 0, done.stderr
    out: dict[str, Path] = {}
    for folder in FOLDERS:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        (out[folder],) = made.glob(f"{project['name'].replace('-', '_')}-*.whl")
    assert len(set(out.values())) == len(list(made.iterdir()))
    return out


def names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def text(wheel: Path, name: str) -> str:
    (found,) = [n for n in names(wheel) if n.endswith(f".dist-info/{name}")]
    return zipfile.ZipFile(wheel).read(found).decode()


def metadata(wheel: Path) -> Message:
    return Parser().parsestr(text(wheel, "METADATA"))


def package_of(wheel: Path) -> str:
    (package,) = {n.partition("/")[0] for n in names(wheel) if ".dist-info/" not in n}
    return package


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_wheel_holds(folder: str, wheels: Mapping[str, Path]) -> None:
    wheel = wheels[folder]
    package = package_of(wheel)
    assert wheel.name.endswith(f"-{ldm_core.__version__}-py3-none-any.whl")
    held = {n for n in names(wheel) if n.startswith(f"{package}/")}
    source = ROOT / folder / package
    expected = {
        f"{package}/{p.relative_to(source).as_posix()}"
        for p in source.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert held == expected, "the package as it is, no more and no less"
    assert f"{package}/py.typed" in held
    assert "MIT License" in text(wheel, "licenses/LICENSE")
    assert metadata(wheel)["Version"] == ldm_core.__version__
    assert metadata(wheel)["Requires-Python"] == ">=3.11"
    assert len(metadata(wheel).get_payload()) > 200, "the README is the description"
    points = configparser.ConfigParser()
    points.read_string(text(wheel, "entry_points.txt"))
    for module in dict(points["ldm_core"]).values():
        assert module.replace(".", "/") + ".py" in held


def test_the_core_brings_recipes_templates_and_its_command(wheels: Mapping[str, Path]) -> None:
    held = names(wheels["."])
    assert "ldm_core/recipes/laptop.yaml" in held
    assert "ldm_core/cli/templates/every_kind/pyproject.toml.tmpl" in held
    assert "ldm_core/cli/templates/every_kind/_github/workflows/tests.yml.tmpl" in held
    assert "ldm-run = ldm_core.cli:main" in text(wheels["."], "entry_points.txt")
    assert set(metadata(wheels["."]).get_all("Provides-Extra") or ()) == {
        "standard",
        "s3",
        "hub",
        "parquet",
        "testing",
        "docs",
        "dev",
    }


@pytest.fixture(scope="module")
def empty(wheels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment where the wheels of core and layout conditioner were asked for.

    Third-party packages are links to those of this environment, so that nothing is downloaded; what is linked does
    not include ldm-core, its plugins, or any ``.pth`` file, by which editable installs work.
    """
    home = tmp_path_factory.mktemp("empty")
    assert run(sys.executable, "-m", "venv", "--without-pip", home).returncode == 0
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    ours = ("ldm_", "_ldm_", "ldm-", "__editable__", "pip", "__pycache__")
    for folder in {p for p in map(Path, sys.path) if p.name == "site-packages"}:
        for entry in folder.iterdir():
            target = site / entry.name
            if not entry.name.startswith(ours) and entry.suffix != ".pth" and not target.exists():
                target.symlink_to(entry)
    assert "No module named 'ldm_core'" in run(python, "-c", "import ldm_core", folder=home).stderr
    installed = install(home / "bin", "--find-links", wheels["."].parent, "ldm-core", "ldm-plugin-bbox")
    brought = [f"ldm-plugin-{name}-{ldm_core.__version__}" for name in ("adversarial", "bbox", "cfg", "ddim", "vq-ae")]
    assert sorted(installed.split()) == [f"ldm-core-{ldm_core.__version__}", *brought]
    return home / "bin"


def install(commands: Path, *line: object) -> str:
    """Let pip put distributions into an environment, with all that they declare; what it says to have installed."""
    pip = [sys.executable, "-m", "pip", "--python", commands / "python", "install", "--no-index"]
    done = run(*pip, *line)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("Successfully installed ")[2].strip()


@pytest.mark.skipif(sys.platform == "win32", reason="links packages")
def test_core_and_conditioner_are_a_latent_diffusion_model_with_guidance(empty: Path, tmp_path: Path) -> None:
    listing = run(empty / "ldm-run", "plugins", "--json", folder=tmp_path)
    assert listing.returncode == 0, listing.stderr
    assert json.loads(listing.stdout)["broken"] == []
    # neither a compiler nor anything else is there to be found on the way
    line = ["--cond", "bbox_layout", "conditioners.bbox_layout.layers=1", *TINY, *SCENES, "--out", "run", "--json"]
    done = run(empty / "ldm-run", *line, folder=tmp_path, path=str(empty))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "done"
    for name in ("recipe.yaml", "metrics.jsonl", "first_stage.safetensors", "model.safetensors", "samples.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0, name
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    parts = [recipe[key]["use"] for key in ("first_stage", "sampler", "guidance")]
    assert parts == ["vq_ae", "ddim", "cfg"]


def own_conditioner(commands: Path, folder: Path) -> list[str]:
    """Write a conditioner of the user's own and pictures with captions into `folder`, and install it: the words by
    which it is trained beside text."""
    assert run(commands / "ldm-run", "new", "conditioner", "palette", folder=folder).returncode == 0
    install(commands, "--no-build-isolation", folder / "ldm-plugin-palette")
    (folder / "photos").mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (number * 30, 0, 0)).save(folder / "photos" / f"{number}.png")
    rows = [
        json.dumps({"file_name": f"{number}.png", "text": f"red {number}", "palette": [number / 8, 0, 0]})
        for number in range(8)
    ]
    (folder / "photos" / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    own = ["--cond", "palette", "--data", "photos", "dataset.read={caption: text, palette: palette}"]
    return ["--first-stage", "vq_f4", "--cond", "text", "--sampler", "ddim", *own, *TINY, "--out", "both"]


@pytest.mark.skipif(sys.platform == "win32", reason="links packages")
def test_the_next_words_of_a_user_work_there_too(empty: Path, wheels: Mapping[str, Path], tmp_path: Path) -> None:
    """Text with one more install, the one that the error names; then a conditioner of the user's own, whose recipe fits
    the data."""
    line = ["--first-stage", "vq_f4", "--cond", "text", "--sampler", "ddim", *TINY, *SCENES]
    refused = run(empty / "ldm-run", *line, folder=tmp_path)
    assert refused.returncode == 2
    assert "pip install ldm-plugin-bert-text" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was begun"
    brought = install(empty, "--find-links", wheels["."].parent, "ldm-plugin-bert-text")
    assert brought == f"ldm-plugin-bert-text-{ldm_core.__version__}"
    done = run(empty / "ldm-run", "check", *own_conditioner(empty, tmp_path), folder=tmp_path, path=str(empty))
    assert done.returncode == 0, done.stderr
    named = [part["use"] for part in yaml.safe_load(done.stdout)["conditioners"]]
    assert named == ["text", "palette"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="links packages")
def test_a_conditioner_of_the_users_own_trains_there(empty: Path, wheels: Mapping[str, Path], tmp_path: Path) -> None:
    """Beside text, to pictures."""
    install(empty, "--find-links", wheels["."].parent, "ldm-plugin-bert-text")
    done = run(empty / "ldm-run", *own_conditioner(empty, tmp_path), folder=tmp_path, path=str(empty))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "both" / "samples.png").stat().st_size > 0
