"""Completion in shells: the candidates that bash gets, and scripts that each shell can read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ldm_core.cli import main
from ldm_core.cli.completion import candidates, script
from ldm_core.cli.group import group
from ldm_core.recipe.keys import SECTIONS
from ldm_core.recipe.shipped import shipped

# what is typed -> what bash is given for the word at the cursor, from its last "=" on
TYPED: Mapping[str, str] = {
    "recons": "reconstruct",
    "--sampl": "--sampler --sample-steps",
    "--sampler ddp": "ddpm",
    "--sampler=ddp": "ddpm",
    "train --until ": "first_stage latents denoiser",
    "sample runs/demo guidance.us": "guidance.use=",
    "trainer.keep": "trainer.keep_checkpoints= trainer.keep_every= trainer.keep_best=",
    "trainer.precision=": "fp32 bf16 fp16",
    "trainer.precision=b": "bf16",
    "data.flip=t": "true",
    "--seed 3 trainer.steps=5 check data.fi": "data.fit=",
    "image_s": "image_size=",
    "completion f": "fish",
    "show first_stage_t": "first_stage_trainer",
    "tally --b": "--by",
    "tally --by l": "letter",
    "convert a b --to ld": "ldm",
    "no_such_command --x": "",
    "--no-such-option=3 recons": "reconstruct",
}


# a word from its beginning, from its last "=" on, after another command's, a plugin's, none, and after a mistake
FEW = ("recons", "--sampler=ddp", "train --until ", "trainer.keep", "trainer.precision=b", "tally --by l",
       "no_such_command --x", "--no-such-option=3 recons")  # fmt: skip


@pytest.fixture
def bash() -> str:
    found = shutil.which("bash")
    if found is None:
        pytest.skip("there is no bash on this machine")
    return found


@pytest.mark.parametrize("typed", [FEW, pytest.param(tuple(TYPED), marks=pytest.mark.slow)], ids=["few", "all"])
def test_bash_completes_what_is_typed(bash: str, tmp_path: Path, typed: tuple[str, ...]) -> None:
    """The script's own function, as readline calls it, in a bash of its own."""
    program = tmp_path / "ldm-run"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ldm_core.cli "$@"\n')
    program.chmod(0o755)
    calls = [
        f"COMP_LINE='ldm-run {line} not this'; COMP_POINT={len('ldm-run ' + line)}\n"
        f'_ldm_run_completion {program}; echo "> ${{COMPREPLY[*]}}"'
        for line in typed
    ]
    text = "\n".join([script("bash", group), "complete -p ldm-run", *calls])
    done = subprocess.run([bash, "--norc"], input=text, capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    registered, *given = done.stdout.splitlines()
    assert registered.endswith("-F _ldm_run_completion ldm-run")
    found = {line: words.removeprefix(">").strip() for line, words in zip(typed, given, strict=True)}
    assert found == {line: TYPED[line] for line in typed}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_can_be_read_by_their_shell(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert text.rstrip("\n") == script(shell, group).rstrip("\n"), "nothing of it is escaped or cut"
    assert f"_LDM_RUN_COMPLETE={shell}_complete" in text and "ldm-run" in text
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell} on this machine; its script is click's own")
    path = tmp_path / "script"
    path.write_text(text)
    subprocess.run([found, "-n", str(path)], check=True)


def _texts(what: str, incomplete: str) -> list[str]:
    return [item.value for item in candidates(what, incomplete) if item.type == "plain"]


def test_settings_go_down_step_by_step() -> None:
    assert {"image_size=", "denoiser=", "denoiser.", "conditioners.", "trainer."} <= set(_texts("setting", ""))
    assert _texts("setting", "trainer.stor") == []
    assert _texts("setting", "denoiser.res_b") == ["denoiser.res_blocks="]
    assert _texts("setting", "sampler.us") == ["sampler.use="]
    assert "conditioners.two_set." in _texts("setting", "conditioners.")
    below = _texts("setting", "conditioners.two_set.")
    assert {"conditioners.two_set.width=", "conditioners.two_set.dropout="} <= set(below)
    assert "conditioners.two_set.vocab_size=" not in below, "another conditioner's"
    assert _texts("setting", "guidance=n") == ["guidance=none"]
    assert _texts("setting", "guidance.use=n") == ["guidance.use=none"]
    assert _texts("setting", "image_channels=") == ["image_channels=1", "image_channels=3"]
    assert _texts("setting", "trainer.lr=") == _texts("setting", "nothing.at=") == _texts("setting", "a.b.c.d") == []


def test_names_and_paths() -> None:
    assert set(_texts("recipe", "")) == set(shipped())
    assert {"recipes", "settings", *SECTIONS, *shipped(), "unet", "vp"} <= set(_texts("name", ""))
    assert _texts("kind", "sa") == ["sampler"]
    assert _texts("conditioner", "non") == ["none"]
    assert [item.type for item in candidates("file", "x")] == ["file"]
    assert [item.type for item in candidates("folder", "x")] == ["dir"]
    assert candidates("first_stage", "identi")[0].type == "file", "a path may be meant where no name fits"
    assert _texts("place", "") == [] and "guidance=" in _texts("place", "guid")
