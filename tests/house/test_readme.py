"""The READMEs and pages: their Python runs; options, settings, presets, arguments and links in them exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import attrs
import click
import pytest
from forked import Command, Ended, forked
from source_tree import short
from written_pages import midpoint, put

from ldm_core.catalog import Catalog
from ldm_core.cli.group import group
from ldm_core.sampling.arguments import _BEFORE as FORMER

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in (
        "data",
        "parts",
        "python",
        "running",
        "plugins",
        "coming_from",
        "troubleshooting",
        "paper",
        "reproducibility",
        "first_steps",
    )
}
TEXT = "\n".join([README, *PAGES.values()])
PARTS = [*sorted(ROOT.glob("plugins/*/README.md")), *sorted(ROOT.glob("conditioners/*/README.md"))]
EXAMPLES = sorted(ROOT.glob("examples/**/README.md"))
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of `text` that call the command line, each once."""
    lines = text.replace("\\\n", " ").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.startswith("    ldm-run ")))


LINES = commands(TEXT)
OTHERS = commands("\n".join(page.read_text(encoding="utf-8") for page in (*PARTS, *EXAMPLES)))
EVERY = list(dict.fromkeys([*LINES, *OTHERS]))
TINY = [
    *("image_size=16", "dataset.scenes=16", "dataset.val_scenes=4", "sample.images=2"),
    *("first_stage_trainer.steps=1", "first_stage_trainer.images_per_step=4", "trainer.images_per_step=4"),
    *("conditioners.text.vocab_size=256", "--train-steps", "1", "--sample-steps", "2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the blocks run."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def ran(folder: Path) -> list[Ended]:
    """Every block, each in a process of its own, beside a run ``runs/demo``: the command of `make demo`, with next to
    no training."""
    (line,) = [line for line in LINES if line.endswith("--out runs/demo")]
    commands = [Command(["ldm_core.cli", *shlex.split(line)[1:], *TINY, "--quiet"], folder)]
    for number, block in enumerate(BLOCKS):
        (folder / f"block_{number}.py").write_text(_shortened(block), encoding="utf-8")
        commands.append(Command([f"block_{number}"], folder))
    with (folder / "block_0.py").open("a", encoding="utf-8") as file:
        file.write("\nprint(len(images), images[0].prompt, [i.seed for i in images])\n")
    demo, *blocks = forked(commands)
    assert demo.code == 0, demo.err
    return blocks


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_there_are_python_blocks_and_commands() -> None:
    assert len(BLOCKS) >= 3
    assert len(LINES) >= 8


def _shortened(block: str) -> str:
    """The block with next to no training and sampling, and without a picture of the training's curve."""
    short = 'trainer={"steps": 2, "images_per_step": 2, "validate_images": 2'
    block = re.sub(r'trainer=\{"steps": \d+', short, block).replace("ldm_core.train(", "ldm_core.train(observers=[], ")
    block = re.sub(r'"steps": \d+', '"steps": 2', block)
    return re.sub(r"\bsteps=\d+", "steps=3", block)


@pytest.mark.parametrize("number", range(1, len(BLOCKS)))
def test_later_blocks_run(number: int, ran: list[Ended]) -> None:
    assert ran[number].code == 0, ran[number].err


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(README.splitlines()) <= 140


SPARED = (
    *("disallow_any_generics", "disallow_subclassing_any", "disallow_untyped_calls"),
    *("warn_return_any", "warn_unused_ignores"),
)
"""Of mypy's strict mode, what this project's own files are spared."""


def test_blocks_are_typed(tmp_path: Path) -> None:
    """As a user's mypy sees them: strict, of an installed package with types (`py.typed`). All that they import has the
    options of `make lint`, so that its cache serves here too."""
    assert (ROOT / "ldm_core" / "py.typed").exists()
    names = [f"block_{number}" for number in range(len(BLOCKS))]
    for name, block in zip(names, BLOCKS, strict=True):
        (tmp_path / f"{name}.py").write_text(block, encoding="utf-8")
    put(midpoint(), tmp_path)
    package = "ldm_plugin_midpoint"
    strict = "\n".join(f"{option} = true" for option in SPARED)
    own = f"\n[[tool.mypy.overrides]]\nmodule = {[*names, package, f'{package}.*']}\n{strict}\n"
    config = tmp_path / "pyproject.toml"
    config.write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8") + own, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-color-output", "--config-file", str(config)]
    command += [str(tmp_path / package), *(str(tmp_path / f"{name}.py") for name in names)]
    environment = {**_environment(), "MYPYPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_block_samples_a_run(folder: Path, ran: list[Ended]) -> None:
    from PIL import Image

    assert ran[0].out.strip() == "2 a green square at top on a black background [5, 6]", ran[0].err
    with Image.open(folder / "square.png") as picture:
        assert picture.size == (16, 16)


@pytest.mark.parametrize("line", EVERY)
def test_commands_have_options_that_exist(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    named = words[0] in Catalog.discover().names("command")
    command = group.get_command(click.Context(group), words[0]) if named else group
    while isinstance(command, click.Group) and named:  # a command of commands: ldm-run study guidance
        command = command.get_command(click.Context(command), (words := words[1:])[0])
    assert command is not None
    known = {name for param in command.params for name in param.opts}
    assert {w for w in words if w.startswith("--")} <= known


def test_make_demo_is_the_readmes_command() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = [line for line in LINES if line.endswith("--out runs/demo")]
    assert "$(BIN)/" + line in makefile


def test_links_lead_somewhere() -> None:
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for document in (*named, *(ROOT / "docs").glob("*.md"), *PARTS, *EXAMPLES):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{short(document)}: {target}"


def test_every_component_of_the_standard_parts_is_named() -> None:
    from importlib.metadata import entry_points

    for point in entry_points(group="ldm_core"):
        if point.dist is not None and (point.dist.name == "ldm-core" or point.dist.name.startswith("ldm-plugin-")):
            for component in point.load().ldm_components():
                names = {component.name, *component.presets}
                named = any(f"`{name}`" in PAGES["parts"] for name in names)
                assert named or (component.kind == "command" and f"ldm-run {component.name}" in TEXT), component.name


@pytest.mark.parametrize("readme", PARTS, ids=lambda path: path.parent.name)
def test_a_parts_readme_knows_its_presets_and_settings(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    assert not [name for name in FORMER if re.search(rf"[`( ]{name}=[\[{{]", text)]
    components = [entry.component for entry in Catalog.discover() if entry.distribution == text.split()[1]]
    if not components:
        pytest.skip("its distribution is not installed")
    assert not [name for part in components for name in part.presets if f"`{name}`" not in text]
    assert all(part.presets or re.search(rf"(?<![\w-]){part.name}\b", text) for part in components)
    table = re.findall(r"^\| (?:setting|field|option) \|.*\n\|[-|]+\n((?:\|.*\n?)+)", text, re.MULTILINE)
    named = [name for rows in table for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert set(named) <= {field.name for part in components for field in attrs.fields(part.config)}
