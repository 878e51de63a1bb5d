"""The hand-written pages of docs/: their worked examples work, and the names in them exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import attrs
import pytest
from forked import Command, Ended, forked
from written_pages import midpoint, page, put

from ldm_core.catalog import Catalog
from ldm_core.recipe.settings import (
    DataSettings,
    FirstStageTrainerSettings,
    SampleSettings,
    TrainerSettings,
)

REPOSITORY = Path(__file__).parents[3]
PAGES = ("coming_from", "first_steps", "paper", "plugins", "reproducibility", "troubleshooting")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short_and_reads_well_on_a_forge(name: str) -> None:
    text = page(name)
    assert len(text.splitlines()) <= 265
    assert not re.search(r"^(```\{|:::|\.\. )|\{(ref|doc|class|func|term)\}`", text, re.MULTILINE)


def kit(folder: Path, *options: str) -> Ended:
    """The plugin's own tests, of a Python that finds it by its entry point."""
    line = ["pytest", "-q", "-p", "no:cacheprovider", "-k", "not accelerator", *options]
    command = Command(line, folder, [str(folder / "site")], {"LDM_PLUGINS": "midpoint"})
    (done,) = forked([command], imports=["pytest", "ldm_core.testing"])
    return done


def test_the_sampler_of_the_page_passes_the_kit(tmp_path: Path) -> None:
    put(midpoint(), tmp_path)
    done = kit(tmp_path)
    assert done.code == 0, done.out + done.err
    assert re.search(r"^\d+ passed", done.out.splitlines()[-1])


def test_the_kit_quotes_what_the_page_says(tmp_path: Path) -> None:
    files = dict(midpoint())
    path = "ldm_plugin_midpoint/sampler.py"
    changed = files[path].replace("steps.done(i, steps.euler(i, x, x0), x0)", "steps.euler(i, x, x0)")
    assert changed != files[path]
    put({**files, path: changed}, tmp_path)
    done = kit(tmp_path, "-k", "TestMidpoint and test_on_step_is_called_after_each_step")
    assert done.code == 1
    assert "a tensor that it returns replaces" in done.out and "other = on_step(i, times[i + 1], x, x0)" in done.out


ROOTS = ("ldm_core", "plugins", "conditioners")


def sources() -> str:
    """The texts of all sources in one, strings that are put together out of several lines as one."""
    texts = [f.read_text(encoding="utf-8") for root in ROOTS for f in sorted((REPOSITORY / root).rglob("*.py"))]
    return re.sub(r"\"\s*\n\s*(\+ )?f?\"", "", "\n".join(texts))


def test_messages_on_the_page_are_those_of_the_code() -> None:
    """A message is quoted with … for what varies; each of its pieces stands in a source."""
    code = sources()
    messages = re.findall(r"^\* `([^`]+)`", page("troubleshooting"), re.MULTILINE)
    assert len(messages) >= 20
    pieces = [piece.strip() for message in messages for piece in message.split("…")]
    assert not [piece for piece in pieces if piece and piece not in code]
    assert all(max(map(len, message.split("…"))) >= 12 for message in messages)


@pytest.mark.parametrize("name", ["paper", "reproducibility"])
def test_names_after_a_link_to_a_file_stand_in_it(name: str) -> None:
    """``[file.py](path) `Name`, `other` ``: functions, classes and constants of that file, tests among them."""
    named = 0
    for path, after in re.findall(r"\]\(\.\./([^)]+\.py)\)((?:,? `\w+`)*)", page(name)):
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        for word in re.findall(r"`(\w+)`", after):
            assert re.search(rf"^\s*(def|class) {word}\b|^{word}\b.*=", text, re.MULTILINE), f"{path}: {word}"
            named += 1
    assert named >= 15


SECTIONS = {
    "data": DataSettings,
    "trainer": TrainerSettings,
    "first_stage_trainer": FirstStageTrainerSettings,
    "sample": SampleSettings,
}
CORE = {"dropout", "train", "degradation", "name", "use"}  # beside the options of a part


def settings() -> set[str]:
    """Every setting of the core and of the installed parts, as a recipe spells it: ``trainer.lr``, ``sampler.eta``."""
    found = {f"{section}.{f.name}" for section, kind in SECTIONS.items() for f in attrs.fields(kind)}
    for entry in Catalog.discover():
        component = entry.component
        if component.kind == "command":
            continue
        names = {f.name for f in attrs.fields(component.config)} | CORE
        key = f"conditioners.{component.name}" if component.kind == "conditioner" else component.kind
        found |= {f"{key}.{name}" for name in names}
    return found


def named_settings(text: str) -> set[str]:
    """The settings in backquotes in `text`, with a value or without."""
    kinds = "|".join([*SECTIONS, "sampler", "guidance", "denoiser", "first_stage", "objective", "schedule"])
    kinds += "|stage_objective|time_grid|dataset|conditioners\\.\\w+"
    return set(re.findall(rf"`((?:{kinds})\.\w+)(?:=[^`]*)?`", text))


@pytest.mark.parametrize("name", PAGES)
def test_settings_named_on_a_page_exist(name: str) -> None:
    assert not named_settings(page(name)) - settings() - {"sampler.share"}  # the worked example's


def test_the_table_of_names_has_many_settings() -> None:
    assert len(named_settings(page("coming_from"))) > 50


def test_parts_on_the_right_of_the_table_exist() -> None:
    known = {name for entry in Catalog.discover() for name in (entry.component.name, *entry.component.presets)}
    rows = [line.split("|") for line in page("coming_from").splitlines() if line.startswith("| `")]
    schedulers = [row for row in rows if "Scheduler" in row[1]]
    assert len(schedulers) >= 4
    for row in schedulers:
        theirs, ours = (re.findall(r"`([^`]+)`", cell) for cell in row[1:3])
        assert set(ours) <= known, ours
        assert len(theirs) == len(ours)


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its cells as one script, with two steps of training; the notebook itself holds no outputs."""
    cells = json.loads((REPOSITORY / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not [cell for cell in codes if cell["outputs"] or cell["execution_count"]]
    script = "\n\n".join("".join(cell["source"]) for cell in codes)
    script, count = re.subn(r'"steps": 60', '"steps": 2', script)
    assert count == 2
    script = script.replace("ldm_core.train(", "ldm_core.train(observers=[], ")
    (tmp_path / "notebook.py").write_text(re.sub(r"\bsteps=\d+", "steps=2", script), encoding="utf-8")
    (done,) = forked([Command(["notebook"], tmp_path)])
    assert done.code == 0, done.err
    assert "Pipeline(haar, class_label, unet, ddim, cfg 3, 16x16, cpu)" in done.out
    assert (tmp_path / "first.png").exists() and (tmp_path / "runs" / "brightness" / "model.safetensors").exists()


def test_the_first_commands_run(tmp_path: Path) -> None:
    """With next to no training: a sheet of the data, a model of `runs/first`, samples, a grid, the model's inputs."""
    text = page("first_steps").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ldm-run ")]
    mine = [line for line in lines if "runs/first" in line or "shapes.png" in line]
    assert len(mine) == 5
    tiny = ["image_size=16", "dataset.val_scenes=4", "sample.images=2", "sample.steps=2"]
    tiny += ["conditioners.text.vocab_size=256", "--quiet"]
    commands = []
    for line in mine:
        short = re.sub(r"(steps|scenes)=\d{3,}", lambda found: f"{found[1]}={16 if found[1] == 'scenes' else 1}", line)
        short = re.sub(r"images_per_step=\d+", "images_per_step=4", short)
        short = short.replace("--images 8", "--images 1 --steps 2").replace("steps=10,25", "steps=1,2")
        more = tiny if "--out runs/first" in line else ["dataset.scenes=64"] if "--sheet" in line else []
        commands.append(Command(["ldm_core.cli", *shlex.split(short)[1:], *more], tmp_path))
    for line, done in zip(mine, forked(commands), strict=True):
        assert done.code == 0, f"{line}: {done.err}"
    assert (tmp_path / "shapes.png").exists() and (tmp_path / "runs" / "first" / "samples.png").exists()
