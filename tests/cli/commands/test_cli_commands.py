"""Commands of other distributions: listed, called, explained; and those that do not load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import attrs
import click
import pytest

from ldm_core import Component, hookimpl
from ldm_core.catalog import Catalog
from ldm_core.cli import argument, command, main, option, together
from ldm_core.cli.group import group

TALLY = {"kind": "command", "name": "tally", "factory": "ldm_contract_plugin.tally:tally", "summary": "Count words."}
OTHERS = ("plugins", "show")


class _Plugin:
    def __init__(self, *described: dict[str, Any]) -> None:
        self.described = described

    @hookimpl
    def ldm_components(self) -> list[Component]:
        return [Component(**each) for each in self.described]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> dict[str, _Plugin]:
    """What is installed beside two commands of the core: distribution -> its plugin."""
    own = [{**TALLY, "name": name, "factory": f"ldm_core.cli.commands.{name}:{name}"} for name in OTHERS]
    made = {"ldm-core": _Plugin(*own)}

    def discover(cls: type[Catalog], limit: Any = None, kinds: Any = None) -> Catalog:
        catalog = Catalog()
        for name, plugin in made.items():
            catalog.register(plugin, name.removeprefix("dist-"), name, "1.0")
        return catalog

    monkeypatch.setattr(Catalog, "discover", classmethod(discover))
    return made


def _line(*words: str, extra: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if extra is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(extra), environment.get("PYTHONPATH")]))
    line = [sys.executable, "-m", "ldm_core.cli", *words]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120)


# ------------------------------------------------------------------------------------------- one that is installed


def test_the_installed_one_is_listed_and_runs() -> None:
    listed = _line("--help").stdout
    assert re.search(r"^Prompts:\n  tally +Count the words of prompts\.$", listed, re.MULTILINE)
    assert listed.index("\nTrain and sample:") < listed.index("\nPrompts:") < listed.index("\nRecipe:")
    (row,) = [line for line in _line("plugins").stdout.splitlines() if line.split()[1:2] == ["tally"]]
    assert row.split()[:4] == ["command", "tally", "ldm-contract-plugin", "0.1.0"]
    done = _line("tally", "a red circle", "a blue square", "--most", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 a\n", "")


def test_options_in_front_of_its_name_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tally", "--skip", "a", "a b", "--skip", "b"]) == 3
    assert main(["tally", "aab", "--by=letter"]) == 0
    assert capsys.readouterr().out == "2 a\n1 b\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["tally"], "Missing argument 'PROMPT...'"),
        (["tally", "a", "--most", "0"], "0 is not in the range x>=1"),
        (["tally", "a", "--by", "colour"], "'colour' is not one of 'word', 'letter'"),
        (["tally", "a", "--mst", "1"], "--most"),
        (["tally", "a", "--fail"], "error: tally: --fail was given; leave it out"),
        (["tall"], "no command 'tall'; did you mean 'tally'?"),
    ],
)
def test_its_mistakes_are_told_as_the_cores_are(line: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert said in " ".join(err.split()) and out == ""


HELP = """\
Usage: ldm-run tally [OPTIONS] PROMPT...

  Count the words of prompts.

Arguments:
  PROMPT...             Prompts whose words are counted.

Counting:
  --by [word|letter]    What is counted.  [default: word]
  --most N              Rows of the table.  [default: all]  [x>=1]
  --skip WORD           A word that does not count; may be repeated.

General:
  --fail                Make a mistake that the user can fix.
  -h, --help            Show this message and exit.

Examples:
  ldm-run tally 'a red circle' 'a blue square' --most 3
"""


def test_its_help_has_groups_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tally", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.split("\n\n")[:2] == HELP.split("\n\n")[:2]
    for wanted, got in zip(HELP.splitlines(), out.splitlines(), strict=True):
        assert wanted.split() == got.split()


@pytest.mark.parametrize("width", [80, 110])
def test_every_help_page_fits_the_terminal(width: int) -> None:
    for name in ("", *group.list_commands(click.Context(group))):
        page = group.get_command(click.Context(group), name) if name else group
        assert page is not None
        settings = {**page.context_settings, "info_name": f"ldm-run {name}", "terminal_width": width}
        lines = page.get_help(click.Context(page, **settings)).splitlines()
        assert max(map(len, lines)) <= width, name
        assert len(getattr(page, "examples", ())) in (1, 2, 3), name


def test_every_setting_of_every_part_says_what_it_is() -> None:
    """`show` has a line of help for each, as for an option; those of data sets too."""
    silent = {
        (entry.component.kind, entry.component.name, field.name)
        for entry in Catalog.discover()
        for field in attrs.fields(entry.component.config)
        if not field.metadata.get("help") and entry.distribution.startswith(("ldm-core", "ldm-plugin"))
    }
    assert not silent


# --------------------------------------------------------------------------------------------- what does not load


BROKEN = [
    ({"factory": "no_such_module:thing"}, "ModuleNotFoundError: No module named 'no_such_module'"),
    ({"factory": "ldm_contract_plugin.tally:nothing"}, "has no attribute 'nothing'"),
    ({"factory": "ldm_contract_plugin.tally:not_a_command"}, "is no command; make it with ldm_core.cli.command"),
]


@pytest.mark.parametrize(("changes", "said"), BROKEN)
def test_a_broken_one_is_a_row_and_a_line(
    plugins: dict[str, _Plugin], changes: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins["dist-a"] = _Plugin({**TALLY, **changes})
    assert main(["--help"]) == 0
    assert "tally" in capsys.readouterr().out
    assert main(["tally", "a"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: command 'tally' of dist-a 1.0 does not load: ") and said in err
    assert err.count("\n") == 1
    assert main(["plugins"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[:3] == ["dist-a", "1.0", "a"] and said in last
    assert main(["plugins", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["broken"]
    assert (row["distribution"], row["plugin"]) == ("dist-a", "a") and said in row["error"]


def test_a_name_taken_twice_is_a_row_for_each_and_a_line(
    plugins: dict[str, _Plugin], capsys: pytest.CaptureFixture[str]
) -> None:
    plugins["dist-a"] = _Plugin({**TALLY, "name": "show"}, TALLY)
    assert main(["show", "recipes"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: command 'show' is claimed by ldm-core (ldm-core) and dist-a (a); uninstall one")
    assert main(["tally", "a"]) == 0, "the others work on"
    assert main(["plugins"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "is claimed by" in line]
    assert rows == ["ldm-core", "dist-a"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "Tally"}, "name 'Tally' is no word of lower-case letters"),
        ({"name": "two words"}, "is no word of lower-case letters"),
        ({"summary": "two\nlines"}, "one line each"),
        ({"summary": ""}, "a summary is needed"),
        ({"factory": "module.function"}, "is not 'package.module:callable'"),
        ({"config": click.Command}, "a command has neither config nor presets"),
        ({"kind": "sampler"}, "is no attrs class"),
    ],
)
def test_a_faulty_descriptor_is_a_row(plugins: dict[str, _Plugin], changes: dict[str, Any], said: str) -> None:
    plugins["dist-a"] = _Plugin({**TALLY, **changes})
    catalog = Catalog.discover()
    assert [entry.component.name for entry in catalog.of("command")] == list(OTHERS)
    (row,) = catalog.broken
    assert said in row.error


def test_a_module_that_raises_breaks_nothing_else(tmp_path: Path) -> None:
    info = tmp_path / "ldm_plugin_wrong-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ldm-plugin-wrong\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[ldm_core]\nwrong = ldm_plugin_wrong\n")
    (tmp_path / "ldm_plugin_wrong.py").write_text(
        "from ldm_core import Component, hookimpl\n"
        "@hookimpl\n"
        "def ldm_components():\n"
        "    return [Component(kind='command', name='wrong', factory='ldm_wrong_command:run', summary='Fail.')]\n"
    )
    (tmp_path / "ldm_wrong_command.py").write_text("print('imported')\nraise RuntimeError('the wrong\\nlibrary')\n")
    listed = _line("--help", extra=tmp_path)
    assert listed.returncode == 0 and "imported" not in listed.stdout + listed.stderr
    assert re.search(r"^Other commands:\n  wrong +Fail\.$", listed.stdout, re.MULTILINE)
    called = _line("wrong", extra=tmp_path)
    assert called.returncode == 2
    assert called.stderr == (
        "error: command 'wrong' of ldm-plugin-wrong 1.2 does not load: RuntimeError: the wrong\\nlibrary "
        "(ldm_wrong_command:run)\n"
    )
    assert _line("tally", "a", extra=tmp_path).stdout == "1 a\n"


# ------------------------------------------------------------------------------------------------- declarations


@attrs.frozen(kw_only=True)
class Inner:
    width: float = option(0.5, "width", above=0, maximum=1)


@attrs.frozen(kw_only=True)
class Options:
    place: str | None = argument("PLACE", "a place", default="here")
    inner: Inner = together(Inner, "Inner")
    names: tuple[str, ...] = option((), "names", flags=["-n", "--name"])
    count: int | None = option(None, "count")
    kind: Literal["a", "b"] = option("a", "kind")
    deep: bool = option(False, "deep", group="More")
    note: str | None = option(None, "note", filled=True)
    beside: int = 7


@attrs.frozen(kw_only=True)
class Twice:
    width: int = option(0, "width")
    inner: Inner = together(Inner)


def test_types_of_fields_become_types_of_options() -> None:
    seen: list[Options] = []

    def run(options: Options) -> None:
        """Run."""
        seen.append(options)

    made = command(Options)(run)
    made.main([], standalone_mode=False)
    assert seen.pop() == Options(place="here", inner=Inner(width=0.5), names=(), kind="a", deep=False, beside=7)
    made.main(
        ["there", "--width", "1", "-n", "x", "--name", "y", "--count", "3", "--kind", "b", "--deep"],
        standalone_mode=False,
    )
    assert seen.pop() == Options(place="there", inner=Inner(width=1.0), names=("x", "y"), count=3, kind="b", deep=True)
    for wrong in (["--width", "0"], ["--width", "1.1"], ["--count", "x"], ["--kind", "c"], ["--note", " "], ["a", "b"]):
        with pytest.raises(click.UsageError):
            made.main(wrong, standalone_mode=False)
    assert not seen


def test_a_field_that_two_classes_share_is_refused() -> None:
    with pytest.raises(TypeError, match="Twice: two fields have the same name"):
        command(Twice)
