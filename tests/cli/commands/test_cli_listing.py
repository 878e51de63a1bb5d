"""``plugins`` and ``show``: what they print of what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from ldm_core import Component, hookimpl
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.cli.output import table
from ldm_core.config.documents import parse_yaml
from ldm_core.recipe.keys import SECTIONS
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.shipped import load_plain, shipped


@attrs.frozen(kw_only=True)
class PaletteConfig:
    """A few colours, by cross-attention."""

    colours: int = attrs.field(default=5, metadata={"help": "how many colours"})
    weights: tuple[float, ...] = (1.0, 0.5)


class _Plugin:
    @hookimpl
    def ldm_components(self) -> list[Component]:
        return [
            Component(
                kind="conditioner",
                name="palette",
                config=PaletteConfig,
                factory="nowhere:nothing",
                summary="steers by a colour palette",
                source="nobody 1999",
                presets={"palette_one": PaletteConfig(colours=1), "palette": PaletteConfig()},
                small={"colours": 2},
            ),
            Component(
                kind="sampler", name="palette", config=PaletteConfig, factory="nowhere:nothing", summary="another"
            ),
            *(
                Component(
                    kind="command",
                    name=name,
                    factory=f"ldm_core.cli.commands.{name}:{name}",
                    summary=f"{name} it",
                )
                for name in ("show", "plugins")
            ),
        ]


@pytest.fixture(autouse=True)
def only_these(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def discover(cls: type[Catalog], limit: Any = None, kinds: Any = None) -> Catalog:
        catalog = Catalog()
        catalog.register(_Plugin(), "palette", "ldm-palette", "2.0")
        return catalog

    monkeypatch.setattr(Catalog, "discover", classmethod(discover))
    yield


def test_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    assert capsys.readouterr().out == (
        "KIND         NAME     DISTRIBUTION     SUMMARY\n"
        "conditioner  palette  ldm-palette 2.0  steers by a colour palette (presets: palette_one)\n"
        "sampler      palette  ldm-palette 2.0  another\n"
        "command      plugins  ldm-palette 2.0  plugins it\n"
        "command      show     ldm-palette 2.0  show it\n"
    )
    assert main(["plugins", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["broken"] == []
    assert document["components"][0] == {
        "kind": "conditioner",
        "name": "palette",
        "presets": ["palette_one"],
        "distribution": "ldm-palette",
        "version": "2.0",
        "plugin": "palette",
        "summary": "steers by a colour palette",
    }


SHOWN = """\
conditioner palette, from ldm-palette 2.0
  steers by a colour palette
  A few colours, by cross-attention.
  Source: nobody 1999

OPTION   TYPE               DEFAULT
colours  int                5           how many colours
weights  tuple[float, ...]  [1.0, 0.5]

Presets, with what differs from the defaults of the component:
  palette_one  colours=1
  palette      as it is

With scale: small  colours=2
"""


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "palette", "--kind", "conditioner"]) == 0
    assert capsys.readouterr().out == SHOWN


def test_show_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "palette_one", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["component"], document["kind"]) == ("palette_one", "palette", "conditioner")
    assert document["options"][0] == {"name": "colours", "type": "int", "default": "1", "help": "how many colours"}
    assert document["presets"] == {"palette_one": {"colours": 1}, "palette": {}}
    assert document["small"] == {"colours": 2}


def test_a_name_of_two_kinds_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "palette"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(SHOWN + "\nsampler palette, from ldm-palette 2.0\n")


@pytest.mark.parametrize(
    "line, said",
    [
        (["palete"], "nothing is named 'palete'; did you mean 'palette'? (components and presets: `ldm-run plugins`; "),
        (["trainr"], "nothing is named 'trainr'; did you mean 'trainer'?"),
        (["laptp"], "nothing is named 'laptp'; did you mean 'laptop'?"),
        (["vq_f4"], "no first_stage named 'vq_f4'; it comes with: pip install ldm-plugin-vq-ae (installed: none)"),
        (["palette", "--kind", "sample"], "--kind: no kind 'sample'; did you mean 'sampler'? (kinds: "),
        (["palette", "--kind", "dataset"], "no dataset named 'palette'; 'palette' is a conditioner (installed: none)"),
    ],
)
def test_what_is_not_there(capsys: pytest.CaptureFixture[str], line: list[str], said: str) -> None:
    assert main(["show", *line]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert main(["show", *line, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "error" and document["problems"][0].startswith(said)


def test_shipped_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    names = shipped()
    assert main(["show", "recipes"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "RECIPE"
    assert [line.split()[0] for line in out[1 : 1 + len(names)]] == list(names)
    assert main(["show", "recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == names
    assert main(["show", "laptop"]) == 0
    assert parse_yaml(capsys.readouterr().out, "") == load_plain("laptop")
    assert main(["show", "laptop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == load_plain("laptop")


# ------------------------------------------------------------------------------------ the core's own settings


@pytest.mark.parametrize("name", SECTIONS)
def test_every_setting_of_a_section_is_shown_with_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"settings of {name}, set by {name}.KEY=VALUE"
    table = lines[lines.index("") + 2 :]
    fields = attrs.fields(SECTIONS[name])
    assert [line.split()[0] for line in table] == [field.name for field in fields]
    for line, field in zip(table, fields, strict=True):
        assert line.endswith(field.metadata["help"]) and len(field.metadata["help"]) > 5


def test_all_settings_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "settings", "--json"]) == 0
    documents = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in documents] == ["recipe", *SECTIONS]
    assert all(row["help"] for each in documents for row in each["options"])
    assert sum(len(each["options"]) for each in documents[1:]) == sum(len(attrs.fields(s)) for s in SECTIONS.values())
    own = {row["name"]: row for row in documents[0]["options"]}
    assert set(own) == {"scale", *(field.name for field in attrs.fields(Recipe))} - set(SECTIONS)
    assert own["image_channels"] == {
        "name": "image_channels",
        "type": "Literal[1, 3]",
        "default": "3",
        "help": "1 for grey images, 3 for colour",
    }


def test_a_section_and_a_command_of_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "show"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("command show, from ldm-palette 2.0\n  show it\n  Show one component or preset")
    assert "\n--kind KIND " in out
    assert main(["show", "data", "--kind", "command"]) == 2
    assert "no command named 'data'" in capsys.readouterr().err


def test_tables_wrap_their_last_column() -> None:
    rows = [("name", "word " * 12), ("longer name", "short")]
    assert table(rows, width=45) == [
        "name         word word word word word word",
        "             word word word word word word",
        "longer name  short",
    ]
    assert table([("n" * 40, "word " * 6)], "  ", width=30) == [
        "  " + "n" * 40,
        "      word word word word word",
        "      word",
    ]
    assert table(rows)[0] == "name         " + ("word " * 12).rstrip()


def test_show_lists_the_parts_of_a_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "conditioners"]) == 0
    assert "palette" in capsys.readouterr().out
    assert main(["show", "auxiliary_losses", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}
