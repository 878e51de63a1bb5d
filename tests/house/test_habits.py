"""One set of commands, in the Makefile: CI, a forge's workflow and pre-commit call those and no others."""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import Any

import yaml
from source_tree import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, with the virtual environment's folder written out."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{target}:[^\n]*\n((?:\t[^\n]*\n)+)", text, re.MULTILINE)
    assert found, f"the Makefile has no target {target} with commands"
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def made(text: str) -> list[str]:
    """The targets that a script calls make for."""
    return re.findall(r"^\s*(?:- run: )?make (\w+)", text, re.MULTILINE)


def workflow() -> dict[Any, Any]:
    found = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_hooks_are_the_commands_of_lint() -> None:
    (repository,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"  # with the versions of .venv, as everyone
    commands = [hook["entry"] for hook in repository["hooks"]]
    assert commands == [line.removesuffix(" .") for line in recipe("lint")]
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    whole = [hook["id"] for hook in repository["hooks"] if not hook.get("pass_filenames", True)]
    assert whole == [line.split("/")[-1] for line in recipe("lint") if not line.endswith(" .")]


def test_the_workflow_calls_what_ci_calls() -> None:
    (job,) = workflow()["jobs"].values()
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert [shlex.split(step)[0] for step in steps] == ["make"] * len(steps)
    targets = [shlex.split(step)[1] for step in steps]
    ours = made((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert targets == ["install", *ours] and ours == ["lint", "docs", "test"]
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", text, re.MULTILINE) for target in targets)


def test_the_workflow_runs_on_what_is_promised() -> None:
    (job,) = workflow()["jobs"].values()
    matrix = job["strategy"]["matrix"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert matrix["python"] == promised and project["requires-python"] == f">={promised[0]}"
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    assert workflow()["permissions"] == {"contents": "read"}
