"""Options that do not exist: the right one is named, or the setting that is meant."""

from __future__ import annotations

import click
import pytest

from ldm_core import cli
from ldm_core.cli.flags import WORDS
from ldm_core.cli.group import group


def test_every_option_that_is_meant_exists() -> None:
    context = click.Context(group)
    commands = [group, *(group.get_command(context, name) for name in group.list_commands(context))]
    options = {name for command in commands if command for param in command.params for name in param.opts}
    assert options.issuperset(WORDS)


def test_a_key_that_is_an_option_is_named_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "output_dir=x"]) == 2
    assert "output_dir: unknown key; did you mean --out?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("--lr 1e-4", "it is a setting: trainer.lr=VALUE"),
        ("--learning-rate 1e-4", "it is a setting: trainer.lr=VALUE"),
        ("--batch-size 4", "it is a setting: trainer.images_per_step=VALUE"),
        ("--steps 4", "did you mean --train-steps or --sample-steps?"),
        ("--epochs 4", "it is a setting: trainer.steps=VALUE (steps are counted"),
        ("train --batch-size=4", "it is a setting: trainer.images_per_step=VALUE"),
        ("check --output_dir x", "did you mean --out?"),
        ("--gpus 2", "did you mean --nproc?"),
        ("--workers 2", "it is a setting: data.workers=VALUE"),
        ("train --ckpt x", "did you mean --init-from?"),
        ("sample run --ckpt x", "did you mean --weights?"),
        ("sample run --batch-size 2", "did you mean --batch?"),
        ("sample run --cfg-scale 2", "did you mean --guidance?"),
        ("sample run --negative-prompt x", "did you mean --negative?"),
        ("sample run --eta 1", "it is a setting: sampler.eta=VALUE"),
        ("reconstruct run --size 3", "did you mean --image-size?"),
    ],
)
def test_a_wrong_option_names_the_right_one(line: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert f"'; {meant}" in said and said.count("did you mean") + said.count("Did you mean") <= 1, said


def test_an_option_that_is_spelt_almost_right_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--quite"]) == 2
    assert "--quiet" in capsys.readouterr().err
