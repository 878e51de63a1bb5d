"""``--help-inputs``: every conditioner's keys with their forms, and an example that can be pasted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from one_thread import each_module as _one_thread  # noqa: F401
from toy_models import CONDITIONERS, toy

from ldm_core.cli import main
from ldm_core.data import images

NEEDED = {
    "none": [],
    "class": ["class_label"],
    "text": ["caption"],
    "clip": ["caption"],
    "layout": ["boxes", "box_labels"],
    "map": ["segmentation"],
    "small": ["image"],
    "hole": ["image", "mask"],
    "vector": ["embedding"],
    "wide_vector": ["embedding"],
    "letters": ["caption"],
    "palette": ["palette"],
    "sizes": [],
    "ground": ["ground"],
    "thumb": ["thumb"],
    "breed": ["breed"],
}


def helped(model: Path, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capfd.readouterr()
    assert main(["sample", str(model), "--help-inputs", "--json"]) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def pasted(line: str) -> None:
    """Run a line of a shell in this process: commands of Python that make files, then ``ldm-run``."""
    for command in line.split(" && "):
        program, *words = shlex.split(command)
        if program == "python":
            exec(words[1], {})
        else:
            assert program == "ldm-run" and main([*words, "--quiet", "--out", "made"]) == 0


@pytest.mark.parametrize("word", CONDITIONERS)
def test_each_example_runs(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = toy(word, tmp_path)
    monkeypatch.chdir(tmp_path)
    said = helped(model, capfd)
    assert [key["key"] for key in said["inputs"] if key["required"]] == NEEDED[word]
    assert said["image_size"] == [16, 24] and said["multiple"] == (4 if word in ("small", "thumb") else 1)
    pasted(said["example"])
    assert len(list(Path("made").glob("0*.png"))) == 2
    if NEEDED[word]:
        capfd.readouterr()
        assert main(["sample", str(model), "--quiet"]) == 2, "nothing of it is needed"
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and error.startswith("error: this model needs ")
        assert all(f"(key '{key}'" in error for key in NEEDED[word])


def test_the_help_for_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = toy("class", tmp_path)
    (model / "samples").mkdir()
    monkeypatch.chdir(model.parent)
    assert main(["sample", "model", "--help-inputs"]) == 0
    said = capfd.readouterr().out
    assert "model: pictures of 16x24 (height x width); --size takes multiples of 1" in said
    assert "--class NAME" in said and "0 to 2; cat, dog, red fox (3)" in said
    assert "cfg, 2 unless said otherwise" in said
    assert said.endswith("ldm-run sample model --class cat --guidance 3 --images 2\n")


def test_a_model_of_pictures_takes_one_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    model = toy("small", tmp_path)
    (model / "samples").mkdir()
    (model / "samples" / "0000.png").write_bytes(images.png_bytes(np.zeros((3, 16, 24), np.uint8)))
    monkeypatch.chdir(tmp_path)
    example = helped(model, capfd)["example"]
    assert f"--image {model}/samples/0000.png" in example
    pasted(example)


def test_of_many_classes_twenty_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    from ldm_core.cli.samples.help_inputs import Taken
    from ldm_core.sampling.pipeline import Pipeline

    pipeline = Pipeline.load(toy("class", tmp_path))
    names = {"class_label": tuple(f"kind {i}" for i in range(60))}
    taken = Taken.of(SimpleNamespace(recipe=pipeline.recipe, class_names=names, presets={}), "run")
    (line,) = (line for line in taken.lines() if "--class NAME" in line)
    assert "kind 19, ... (3 in all)" in line and "kind 20" not in line
    assert len(taken.document()["inputs"][0]["class_names"]) == 60
