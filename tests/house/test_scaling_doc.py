"""docs/scaling.md against the code: settings and options that it names exist, its tables follow from its formulas."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import click
import pytest

from ldm_core.cli.group import group
from ldm_core.recipe import settings
from ldm_core.storage import options

TEXT = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
SECTIONS = {
    "trainer": settings.TrainerSettings,
    "first_stage_trainer": settings.FirstStageTrainerSettings,
    "data": settings.DataSettings,
    "storage": options.StorageSettings,
    "sample": settings.SampleSettings,
}
PARAMETERS = {"unet_cin_f4": 400_920_579, "unet_text_f8": 872_300_484}
"""As test_unet_published.py counts them."""
BYTES = {"0": lambda n: 20, "2": lambda n: 8 + 16 / n, "3": lambda n: 24 / n}


def test_settings_exist() -> None:
    named = re.findall(r"\b(trainer|first_stage_trainer|data|storage|sample)\.([a-z_]+)\b", TEXT)
    assert len(named) > 15
    for section, field in named:
        assert field in {f.name for f in attrs.fields(SECTIONS[section])}, f"{section}.{field}"


def test_options_exist() -> None:
    known = {o for command in [group, *group.commands.values()] for p in command.params
             if isinstance(p, click.Option) for o in p.opts}  # fmt: skip
    lines = TEXT.replace("\\\n", " ").splitlines()
    for line in lines:
        _, found, ours = line.partition("ldm-run ") if "ldm-run " in line else line.partition("ldm_core.cli ")
        if found and not line.startswith("*") and "`" not in line:
            for option in re.findall(r"(?<=\s)--[a-z-]+", " " + ours):
                assert option in known, f"{option} in: {line}"


@pytest.mark.parametrize("preset", PARAMETERS)
def test_the_table_follows_from_the_formulas(preset: str) -> None:
    block = TEXT[TEXT.index(f"| `{preset}`") :]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()[:3]]
    assert rows[0][1] == f"{PARAMETERS[preset] / 1e6:.1f} M"
    for row in rows:
        stage, *sizes = row[2:]
        expected = [PARAMETERS[preset] * BYTES[stage](n) / 2**30 for n in (1, 2, 8, 64)]
        assert sizes == [f"{value:.1f}" for value in expected], stage


def test_the_formulas_are_the_sums_of_their_rows() -> None:
    """Each row's parts, summed for 1, 2 and 8 processes, are what the last column says."""

    def value(text: str, n: int) -> float:
        return sum(float(eval(part, {"N": n})) for part in text.split("+") if part.strip())  # the document's own cells

    rows = [line for line in TEXT.splitlines() if re.match(r"\| [0-3](, `accumulate` above 1)? \|", line)]
    assert len(rows) == 5
    for row in rows:
        *parts, together = [cell.strip() for cell in row.strip("|").split("|")][1:]
        for n in (1, 2, 8):
            assert sum(value(p, n) for p in parts if p) == pytest.approx(value(together, n)), row
