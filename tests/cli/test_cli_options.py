"""The command line's surface: its options equal this list, so that one is added on purpose only."""

from __future__ import annotations

import click
import pytest

from ldm_core.catalog import Catalog
from ldm_core.cli.group import group

RUN = {
    "--recipe",
    "--first-stage",
    "--init-from",
    "--denoiser",
    "--cond",
    "--sampler",
    "--time-grid",
    "--guidance",
    "--data",
    "--out",
    "--prompt",
    "--input",
    "--boxes",
    "--segmentation",
    "--class",
    "--train-steps",
    "--sample-steps",
    "--seed",
    "--nproc",
    "--timeout",
    "--strict",
    "--force",
    "--json",
    "--quiet",
}
WEIGHTS = {"--from", "--sha256", "--first-stage", "--partial"}
OPTIONS = {
    "train": RUN | {"--until"},
    "check": RUN | {"--count"},
    "sample": WEIGHTS
    | {
        "--weights",
        "--negative",
        "--precision",
        "--preset",
        "--prompt",
        "--prompts",
        "--input",
        "--boxes",
        "--segmentation",
        "--class",
        "--images",
        "--seed",
        "--seeds",
        "--steps",
        "--sample-steps",
        "--guidance",
        "--sampler",
        "--time-grid",
        "--image",
        "--mask",
        "--size",
        "--grid",
        "--help-inputs",
        "--strength",
        "--batch",
        "--like",
        "--out",
        "--force",
        "--device",
        "--strict",
        "--json",
        "--quiet",
    },
    "reconstruct": {"--out", "--force", "--image-size", "--device", "--tile", "--tile-memory", "--json"},
    "encode": {
        "--first-stage",
        "--data",
        "--out",
        "--recipe",
        "--cond",
        "--seed",
        "--nproc",
        "--timeout",
        "--json",
        "--quiet",
    },
    "convert": WEIGHTS | {"--to", "--dtype", "--force", "--json"},
    "inspect": {"--from", "--sha256", "--hash", "--json"},
    "ema": {"--width", "--out", "--step", "--force", "--json"},
    "plugins": {"--json"},
    "show": {"--kind", "--json"},
    "new": {"--dir"},
    "completion": set(),
}
ARGUMENTS = {
    "train": ["settings"],
    "check": ["settings"],
    "sample": ["given"],
    "reconstruct": ["stage", "pictures"],
    "encode": ["settings"],
    "convert": ["given"],
    "inspect": ["given"],
    "ema": ["run"],
    "plugins": [],
    "show": ["name"],
    "new": ["kind", "name"],
    "completion": ["shell"],
}


def _options(command: click.Command) -> set[str]:
    return {name for p in command.params if isinstance(p, click.Option) and not p.hidden for name in p.opts}


def test_options_of_the_run() -> None:
    assert _options(group) == RUN | {"--version"}


def test_commands() -> None:
    own = [e.component.name for e in Catalog.discover().of("command") if e.distribution == "ldm-core"]
    expected = "train sample reconstruct encode convert inspect ema check show plugins new completion"
    assert own == expected.split()
    assert set(OPTIONS) == set(own) == set(ARGUMENTS)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_command(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None and command.name == name
    assert _options(command) == OPTIONS[name]
    assert [p.name for p in command.params if isinstance(p, click.Argument)] == ARGUMENTS[name]
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    assert all(p.help for p in shown), "an option without a line of help"
    assert command.help


@pytest.mark.parametrize("name", OPTIONS)
def test_no_option_hides_a_component(name: str) -> None:
    """The settings of components are KEY=VALUE; none of them becomes an option."""
    known = OPTIONS[name] | RUN
    assert not {o for o in known if "." in o or "_" in o}
