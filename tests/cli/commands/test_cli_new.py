"""``new KIND``: what it writes is a distribution that passes its own tests."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
import yaml
from forked import Command, Ended, forked

from ldm_core.cli import main
from ldm_core.cli.commands.new import Kind, plugin_files

KINDS = get_args(Kind)

FILES = [
    ".github/workflows/tests.yml",
    "README.md",
    "ldm_plugin_colour_mood/__init__.py",
    "ldm_plugin_colour_mood/conditioner.py",
    "ldm_plugin_colour_mood/config.py",
    "ldm_plugin_colour_mood/plugin.py",
    "ldm_plugin_colour_mood/py.typed",
    "pyproject.toml",
    "tests/test_colour_mood_conformance.py",
]


SETTINGS = ["first_stage_trainer.steps=2", "first_stage_trainer.images_per_step=2", "dataset.scenes=8"]
TRAIN = ["train", "--first-stage", "colour_mood", "--until", "first_stage", "--cond", "none", "--out", "run"]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Ended]:
    """Every kind generated, put where Python finds it with its entry point, and held to the conformance kit."""
    folder = tmp_path_factory.mktemp("tried")
    commands = []
    for name in (*KINDS, "tokens"):
        kind = "conditioner" if name == "tokens" else name
        assert main(["new", kind, "colour_mood", "--dir", str(folder / name)]) == 0
        if name == "tokens":
            of_tokens(folder / name / "ldm-plugin-colour-mood" / "ldm_plugin_colour_mood")
        commands.append(installed(folder / name, "pytest", "-q", "-p", "no:cacheprovider", "-k", "not accelerator"))
    return dict(zip((*KINDS, "tokens"), forked(commands, imports=["pytest", "ldm_core.testing"]), strict=True))


def of_tokens(package: Path) -> None:
    """Change a generated conditioner, as its author may: one token for each image, in place of a vector."""
    changes = {
        "config.py": [("CondSpec(vector=self.width)", "CondSpec(crossattn=self.width)")],
        "conditioner.py": [
            ("Cond(vector=self.layers(values))", "Cond(crossattn=self.layers(values).unsqueeze(1))"),
            ("assert like.vector", "assert like.crossattn"),
            (
                "vector=self.nothing.to(like.vector).expand_as(like.vector)",
                "crossattn=self.nothing.to(like.crossattn).expand_as(like.crossattn)",
            ),
        ],
    }
    for name, pairs in changes.items():
        text = (package / name).read_text(encoding="utf-8")
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (package / name).write_text(text, encoding="utf-8")


def test_a_conditioner_of_tokens_passes_the_tests_of_one_of_a_vector(tried: Mapping[str, Ended]) -> None:
    """Its author changes what it writes; the generated tests read the parts that it has."""
    assert tried["tokens"].code == 0, tried["tokens"].out + tried["tokens"].err
    assert passed(tried["tokens"]) == passed(tried["conditioner"]) > 10


def passed(done: Ended) -> int:
    """The number of tests that passed."""
    found = re.search(r"(\d+) passed", done.out)
    assert found, done.out
    return int(found[1])


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_its_own_tests(
    kind: str, tried: Mapping[str, Ended], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", kind, "colour_mood", "--dir", str(tmp_path)]) == 0
    root = tmp_path / "ldm-plugin-colour-mood"
    out = capsys.readouterr().out
    files = [f.replace("conditioner", kind) for f in FILES]
    assert sorted(out.splitlines()[: len(files)]) == sorted(str(root / f) for f in files)
    assert f"pip install -e '{root}[testing]'" in out
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) == sorted(files)

    done = tried[kind]
    assert done.code == 0, done.out + done.err
    assert " passed" in done.out and "failed" not in done.out and "error" not in done.out


def test_a_first_stage_of_the_template_is_trained(tmp_path: Path) -> None:
    """Its author edits a stage that a run trains with the core's own objective."""
    assert main(["new", "first_stage", "colour_mood", "--dir", str(tmp_path)]) == 0
    (done,) = forked([installed(tmp_path, "ldm_core.cli", *TRAIN, *SETTINGS)])
    assert done.code == 0, done.out + done.err
    assert (tmp_path / "ldm-plugin-colour-mood" / "run" / "first_stage.safetensors").is_file()


def installed(folder: Path, *line: str) -> Command:
    """A command in the distribution that was generated in `folder`, which Python finds with its entry point."""
    root = folder / "ldm-plugin-colour-mood"
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    info = folder / "site" / "ldm_plugin_colour_mood-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["ldm_core"]
    (info / "entry_points.txt").write_text("[ldm_core]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()))
    return Command(line, root, [str(folder / "site")], {"LDM_PLUGINS": "colour_mood"})


@pytest.mark.parametrize("kind", KINDS)
def test_the_generated_code_is_clean(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff", reason="ruff is not installed (ldm-core[dev])")
    assert main(["new", kind, "colour_mood", "--dir", str(tmp_path)]) == 0
    for line in (["check", "--select", "E,F,I,UP,B"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *line, "--isolated", "--no-cache", "--line-length", "110", "."],
            cwd=tmp_path / "ldm-plugin-colour-mood",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_template_is_left(kind: str) -> None:
    for path, text in plugin_files(kind, "x1").items():
        assert "$" not in text.replace("${{", "") and "NAME" not in path and "package" not in path, path


@pytest.mark.parametrize("kind", KINDS)
def test_its_workflow_runs_what_runs_here(kind: str, tmp_path: Path) -> None:
    """Its commands are run but for the installation, whose extras the distribution has; pytest is, above."""
    pytest.importorskip("ruff", reason="ruff is not installed (ldm-core[dev])")
    assert main(["new", kind, "colour_mood", "--dir", str(tmp_path)]) == 0
    root = tmp_path / "ldm-plugin-colour-mood"
    flow = yaml.safe_load((root / ".github" / "workflows" / "tests.yml").read_text())
    (job,) = flow["jobs"].values()
    assert set(flow[True]) == {"push", "pull_request"} and flow["permissions"] == {"contents": "read"}
    assert job["strategy"]["matrix"] == {"os": ["ubuntu-latest", "macos-latest"], "python": ["3.11", "3.12", "3.13"]}
    assert job["runs-on"] == "${{ matrix.os }}" and job["steps"][1]["with"]["python-version"] == "${{ matrix.python }}"
    install, *lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    assert shlex.split(install) == ["python", "-m", "pip", "install", "-e", ".[testing,lint]"]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) == {"testing", "lint"}
    assert lines.pop() == "python -m pytest" and len(lines) == 2
    for line in lines:
        python, *arguments = shlex.split(line)
        assert python == "python" and arguments[:2] == ["-m", "ruff"]
        done = subprocess.run([sys.executable, *arguments, "--no-cache"], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_badge_is_that_of_its_workflow(tmp_path: Path) -> None:
    """By a path in the repository, which has no address yet."""
    for kind in KINDS:
        text = plugin_files(kind, "colour_mood")["README.md"]
        assert "[![tests](../../actions/workflows/tests.yml/badge.svg)](../../actions/workflows/tests.yml)" in text
        assert "Python 3.11 to 3.13" in text


@pytest.mark.parametrize(
    "name, said",
    [
        ("Palette", "is no name for a component: lower-case letters"),
        ("1st", "is no name"),
        ("a-b", "is no name"),
        ("a__b", "is no name"),
        ("a_", "is no name"),
        ("class", "and no word of Python's own"),
        ("../x", "is no name"),
        ("bbox_layout", "there is a conditioner named 'bbox_layout' already"),
    ],
)
def test_names_that_will_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    assert main(["new", "conditioner", name, "--dir", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ldm-plugin-mood").mkdir()
    assert main(["new", "conditioner", "mood", "--dir", str(tmp_path)]) == 2
    assert "is there already; remove it, or choose another place with --dir" in capsys.readouterr().err
    assert list((tmp_path / "ldm-plugin-mood").iterdir()) == []
