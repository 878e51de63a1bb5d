"""Keys of the library in the flags of the command that runs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator

import click
import pytest

from ldm_core.cli import error_lines, flags, main
from ldm_core.cli.group import group
from ldm_core.cli.output import warnings_as_lines
from ldm_core.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def nobody_speaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(flags, "_known", frozenset())
    yield


def _command(name: str) -> click.Command:
    found = group.get_command(click.Context(group), name) if name else group
    assert found is not None
    return found


def test_a_conversion_is_a_whole_line_to_copy() -> None:
    line = flags.in_flags("first: `weights.convert='my model.ckpt' FOLDER denoiser.heads=...`; give FOLDER")
    assert line == "first: `ldm-run convert 'my model.ckpt' FOLDER denoiser.heads=... --to ldm`; give FOLDER"


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("", "give `inputs.caption`", "give --prompt TEXT"),
        (
            "",
            "give `inputs.palette`, or `inputs.embedding`",
            "give --input palette=..., or --input embedding=@FILE.npy",
        ),
        ("", "`first_stage`: no file", "--first-stage: no file"),
        ("", "say `conditioners=text` or `dataset`", "say --cond text or --data"),
        (
            "",
            "`trainer.init_from=my run` `out=NEW` `trainer.steps=3`",
            "--init-from 'my run' --out NEW --train-steps 3",
        ),
        ("", "set `trainer.lr=1e-5`, see `Catalog.broken`", "set `trainer.lr=1e-5`, see `ldm-run plugins`"),
        ("", "`make demo` and `ldm-run plugins` and `", "`make demo` and `ldm-run plugins` and `"),
        ("", "another `codec`", "another `codec`"),
        ("convert", "another `codec`, or `dtype=bf16`", "another --from, or --dtype bf16"),
        ("convert", "give `inputs.caption`", "give `inputs.caption`"),
        ("sample", "`steps=5` are too few", "--steps 5 are too few"),
        ("sample", "without `strict`", "without --strict"),
    ],
)
def test_keys_become_flags_of_the_command_that_has_them(command: str, text: str, said: str) -> None:
    assert flags.in_flags(text) == text.replace("Catalog.broken", "ldm-run plugins"), "no command speaks yet"
    flags.speak_for(_command(command))
    assert flags.in_flags(text) == said


def test_every_flag_of_the_table_is_an_option_of_a_command() -> None:
    commands = group.list_commands(click.Context(group))
    options = {name for each in ("", *commands) for param in _command(each).params for name in param.opts}
    named = [*flags.KEYS.values(), *(how.split()[0] for how in flags.INPUTS.values())]
    assert set(named) <= options
    for line in flags.COMMANDS.values():
        assert line.split()[1:2] == [] or line.split()[1] in commands, line


def test_errors_and_warnings_are_told_in_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ldm_core.cli import run

    def fail(*_: object) -> int:
        with warnings_as_lines():
            warnings.warn_explicit("no `dataset`", UserWarning, "f.py", 1, "ldm_core.x")
        raise ConfigError(["`first_stage`: nothing there", "or `inputs.boxes`"])

    monkeypatch.setattr(run, "run_stages", fail)
    assert main([]) == 2
    said = "error: --first-stage: nothing there\nerror: or --boxes FILE\n"
    assert capsys.readouterr().err == "warning: no --data\n" + said
    assert error_lines(DataError("give `inputs.class_label`")) == ["error: give --class NAME"]


def test_problems_in_json_are_told_in_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ldm_core.cli import run

    def fail(*_: object) -> None:
        raise DataError("give another `dataset`")

    monkeypatch.setattr(run, "prepare", fail)
    assert main(["check", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"status": "error", "problems": ["give another --data"]}
    assert err == "error: give another --data\n"
