"""``ldm-run encode``: what it makes, says and refuses, and that a run finds what it made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ranks import on_ranks
from training_runs import TINY, Watch, go

from ldm_core.cli import main
from ldm_core.config import documents


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a first stage, and beside it the recipe of the model that comes next."""
    folder = tmp_path_factory.mktemp("encode")
    go(folder / "run", stages=("first_stage",))
    recipe = {**TINY, "dataset": {"use": "shapes", "scenes": 40, "val_scenes": 8}}
    (folder / "recipe.yaml").write_text(documents.dump_yaml(recipe))
    return folder


def _arguments(stage: Path, out: Path, *more: str) -> list[str]:
    run, recipe = str(stage / "run"), str(stage / "recipe.yaml")
    return ["encode", "--first-stage", run, "--recipe", recipe, "--out", str(out), *more]


def test_it_encodes_says_so_and_a_run_finds_it(stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(stage, tmp_path / "moments", "data.flip=true", "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["status"], said["count"], said["flips"], said["shards"], said["made"]) == ("done", 40, 2, 2, 2)
    assert said["shapes"] == [[3, 16, 16]] and said["bytes"] > 40 * 2 * 3 * 16 * 16 * 4
    assert main(_arguments(stage, tmp_path / "moments", "data.flip=true", "--quiet")) == 0
    text = capsys.readouterr().out
    assert "40 images, mirrored too, moments of 3 x 16 x 16 as fp32" in text and "all there already" in text
    assert f"trainer.latents={tmp_path / 'moments'}" in text
    watch = go(
        tmp_path / "run",
        "data.flip=true",
        f"trainer.latents={tmp_path / 'moments'}",
        watch=Watch(),
        stages=("first_stage", "latents", "denoiser"),
        first_stage=str(stage / "run"),
        dataset={"use": "shapes", "scenes": 40, "val_scenes": 8},
    )
    assert ("latents", "skipped") in watch.ends and ("denoiser", "done") in watch.ends


def test_what_is_not_trained_cannot_encode(stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(stage, tmp_path / "moments")
    arguments[2] = "identity"
    assert main(arguments) == 2
    assert "first_stage 'identity' is not trained yet" in capsys.readouterr().err
    arguments[2] = str(tmp_path / "nothing")
    assert main(arguments) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(_arguments(stage, tmp_path / "moments", "data.crop=random", "--json")) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["status"] == "error" and "data.crop=random" in said.err
    assert not (tmp_path / "moments").exists()


def test_two_processes_encode_together(stage: Path, tmp_path: Path) -> None:
    assert main(_arguments(stage, tmp_path / "one", "--quiet")) == 0
    script = tmp_path / "main.py"
    script.write_text("import sys\nfrom ldm_core.cli import main\nsys.exit(main(sys.argv[1:]))\n")
    assert json.loads(on_ranks(script, *_arguments(stage, tmp_path / "two", "--json")))["made"] == 2
    one, two = (next((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert one.name == two.name
    assert sorted(p.name for p in two.iterdir()) == [
        "manifest.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    assert all((one / p.name).read_bytes() == p.read_bytes() for p in two.iterdir())
