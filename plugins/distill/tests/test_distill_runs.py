"""Distilled runs: by the command and from Python, gone on with after a kill, sampled; and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from forked import Command, Process
from ldm_plugin_distill.recipe import distil, student
from one_thread import each_test as _one_thread  # noqa: F401
from safetensors.torch import load_file
from training_runs import go, weights

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.errors import CheckpointError, ConfigError, LDMError
from ldm_core.recipe import artifacts

SMALL = {
    "use": "unet",
    "channels": 8,
    "channel_mult": [1],
    "res_blocks": 1,
    "heads": 2,
    "attention": [],
    "norm_groups": 4,
}
CLASSES = [{"use": "class_label", "width": 8, "dropout": 0.3}]
GUIDED = {"use": "cfg", "scale": 3.0}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    go(out, "trainer.steps=4", denoiser=SMALL, conditioners=CLASSES, guidance=GUIDED)
    return out


def recipe_of(out: Path) -> Any:
    return yaml.safe_load((out / "recipe.yaml").read_text())


def checkpoint(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a run's newest checkpoint."""
    newest = max((out / "checkpoints" / "denoiser").iterdir(), key=lambda folder: folder.name)
    return {k: v for file in newest.glob("*.safetensors") for k, v in load_file(file).items()}


def test_the_command_makes_a_run(teacher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in teacher.rglob("*") if file.is_file()}
    out = tmp_path / "run"
    line = ["distil", str(teacher), "--steps", "2", "--out", str(out), "--train-steps", "3"]
    assert main([*line, "trainer.log_every=1", "objective.levels=10"]) == 0
    assert "latents: already done" in capfd.readouterr().err, "the teacher's encoded images are not taken"
    assert {file: file.stat().st_mtime_ns for file in before} == before, "the teacher's folder was touched"
    made, header = recipe_of(out), artifacts.read_header(str(teacher / "model.safetensors"), "model")
    assert made["objective"]["use"] == "consistency" and made["objective"]["scale"] == 3.0
    assert made["objective"]["sha256"] == made["trainer"]["init_sha256"] == header.sha256
    assert (made["sampler"]["use"], made["guidance"]["use"], made["sample"]["steps"]) == ("lcm", "none", 2)
    assert made["time_grid"] == {"use": "lcm", "levels": 10}
    assert [(c["train"], c["dropout"]) for c in made["conditioners"]] == [(False, 0.0)]
    theirs, mine = weights(teacher), weights(out)
    same = {key for key in theirs if torch.equal(theirs[key], mine[key])}
    assert theirs.keys() == mine.keys() and {k for k in theirs if k.startswith("conditioners.")} <= same
    assert "denoiser.out.2.weight" not in same
    held = checkpoint(out)
    assert any(key.startswith("model/state/objective.target.") for key in held)
    assert not [key for key in held if "exp_avg" in key and ("target" in key or "conditioners" in key)]
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["loss"] for row in rows if row["stage"] == "denoiser"]).all()
    assert len(list((out / "samples").glob("*.png"))) == 2
    assert main([*line, "trainer.log_every=1", "objective.levels=10"]) == 0, "a finished run is taken as it is"

    one, two = (ldm_core.load(str(out), device="cpu").sample(inputs={"class_label": 1}, images=1, seed=3) for _ in "ab")
    assert np.array_equal(one[0].image, two[0].image)
    (out / "model.safetensors").rename(tmp_path / "alone.safetensors")
    (out / "first_stage.safetensors").rename(tmp_path / "first_stage.safetensors")
    assert (
        artifacts.read_header(str(tmp_path / "alone.safetensors"), "model").config["objective"]["use"] == "consistency"
    )


SHORT = ["trainer.steps=10", "trainer.checkpoint_every=1", "trainer.validate_images=2"]
CHANGES = [*SHORT, "objective.decay=0.5"]
METHODS = {"consistency": CHANGES, "progressive": [*CHANGES, "objective.begin=8"], "adversarial": SHORT}


def kill(run: Process, out: Path) -> None:
    """End it without a word once two checkpoints are there."""
    kept, begun = out / "checkpoints" / "denoiser", time.monotonic()
    while not (kept.is_dir() and len(list(kept.glob("*"))) >= 2):
        assert run.poll() is None and time.monotonic() - begun < 240, "it ended by itself"
        time.sleep(0.005)
    run.kill()
    assert run.end().code < 0 and not (out / "model.safetensors").exists()


@pytest.mark.parametrize(
    "method", ["consistency", *(pytest.param(each, marks=pytest.mark.slow) for each in ("progressive", "adversarial"))]
)
def test_killed_and_gone_on_with_bit_for_bit(teacher: Path, tmp_path: Path, method: Any) -> None:
    """The target's average, and the teachers after the first, go on from the checkpoint.

    In the normal suite the latter do so in the test of a low-rank student.
    """
    run, line = tmp_path / "run", ["ldm_core.cli", "distil", str(teacher), "--steps", "2", "--method", method]
    kill(Process(Command([*line, "--out", str(run), *METHODS[method]])), run)
    for out in (run, tmp_path / "whole"):  # in fresh processes, as the killed one was
        assert Process(Command([*line, "--out", str(out), *METHODS[method]])).end().code == 0
    whole, again = checkpoint(tmp_path / "whole"), checkpoint(run)
    assert whole.keys() == again.keys() and not [key for key in whole if not torch.equal(whole[key], again[key])]
    a, b = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(a[key], b[key]) for key in a)
    if method == "adversarial":
        return
    target = {k: v for k, v in whole.items() if k.startswith("model/state/objective.target.")}
    own = (whole[k.replace("objective.target", "model.denoiser")] for k in target)
    assert target and not all(torch.equal(x, y) for x, y in zip(target.values(), own, strict=True))
    if method == "progressive":
        assert int(whole["model/state/objective.halved"]) == 1
        assert recipe_of(tmp_path / "whole")["sampler"]["use"] == "ddim"


def test_the_discriminator_goes_on_from_a_checkpoint(teacher: Path, tmp_path: Path) -> None:
    """A run of 3 steps, and one that has lost all after the second; the heads learn and are in no weights file."""
    line = ["distil", str(teacher), "--method", "adversarial", "--steps", "1", "--train-steps", "3"]
    line = [*line, "trainer.checkpoint_every=2", "trainer.validate_images=2", "trainer.log_every=1"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert main([*line, "--out", str(whole)]) == 0
    shutil.copytree(whole, again)
    (again / "model.safetensors").unlink()
    shutil.rmtree(max((again / "checkpoints" / "denoiser").iterdir(), key=lambda folder: folder.name))
    before = checkpoint(again)
    assert main([*line, "--out", str(again)]) == 0
    one, other = checkpoint(whole), checkpoint(again)
    assert one.keys() == other.keys() and not [key for key in one if not torch.equal(one[key], other[key])]
    heads = [key for key in one if key.startswith("model/state/objective.discriminator.heads.")]
    assert len(heads) >= 6 and all(not torch.equal(before[key], one[key]) for key in heads)
    assert not [key for key in weights(whole) if "objective" in key]
    made = recipe_of(whole)
    assert (made["sampler"]["use"], made["sampler"]["boundary"], made["guidance"]["use"]) == ("lcm", 0.0, "none")
    assert made["time_grid"] == {"use": "trailing"} and made["sample"]["steps"] == made["objective"]["steps"] == 1
    assert (made["objective"]["scale"], made["trainer"]["betas"], made["trainer"]["clip"]) == (3.0, [0.5, 0.99], 0.0)
    assert ldm_core.load(str(whole), device="cpu").sample(inputs={"class_label": 1}, images=1)


def test_an_adversarial_student_of_pieces_of_weights(teacher: Path, tmp_path: Path) -> None:
    """ZeRO 3 keeps pieces of the weights, the discriminator's as well, and trains the same student."""
    for zero in (0, 3):
        line = ["distil", str(teacher), "--method", "adversarial", "--steps", "1", "--train-steps", "2"]
        out = ["--out", str(tmp_path / str(zero))]
        assert main([*line, *out, f"trainer.zero={zero}", "trainer.validate_images=2"]) == 0
    one, other, begun = weights(tmp_path / "0"), weights(tmp_path / "3"), weights(teacher)
    assert any(not torch.equal(one[key], begun[key]) for key in begun)
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_a_range_of_scales_and_the_student_as_its_own_target(teacher: Path, tmp_path: Path) -> None:
    before = dict(os.environ)
    run = distil(
        teacher, "objective.scale=[2,8]", "objective.decay=0", "trainer.precision=bf16", "trainer.validate_images=2",
        steps=1, out=tmp_path / "run", trainer={"steps": 2},
    )  # fmt: skip
    assert dict(os.environ) == before, "the process is not left as it was"
    assert Path(str(recipe_of(tmp_path / "run")["trainer"]["latents"])) == teacher / "latents"
    assert run.finished and not [key for key in checkpoint(tmp_path / "run") if "objective" in key]
    assert run.pipeline(device="cpu").sample(inputs={"class_label": 0}, images=1)


def test_the_recipe_of_a_student(teacher: Path) -> None:
    made = student(teacher, "objective.boundary=0", steps=60).values()
    assert made["time_grid"]["levels"] == made["objective"]["levels"] == 60 and made["sampler"]["boundary"] == 0
    kept = student(teacher, sampler={"use": "lcm", "boundary": 2.0}).values()
    assert kept["sampler"]["boundary"] == 2.0 and kept["time_grid"]["levels"] == 50
    halved = student(teacher, steps=4, method="progressive").values()
    assert (halved["objective"]["begin"], halved["objective"]["steps"]) == (32, 4)


def test_what_is_refused(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text((teacher / "recipe.yaml").read_text())
    with pytest.raises(ConfigError, match="holds no run"):
        student(tmp_path)
    with pytest.raises(CheckpointError, match="not trained to its end"):
        student(tmp_path / "begun")
    with pytest.raises(ConfigError, match="method: expected one of consistency, progressive, adversarial"):
        student(teacher, method="luck")  # type: ignore[arg-type]
    go(tmp_path / "other", "trainer.steps=1", denoiser=SMALL, seed=1, stages=("first_stage", "latents", "denoiser"))
    refused: list[tuple[str, dict[str, Any]]] = [
        ("latents of another first stage", {"first_stage": {"weights": str(_other_stage(teacher, tmp_path))}}),
        ("teacher was never trained without", {"objective": {"teacher": str(tmp_path / "other"), "sha256": ""}}),
        ("no trained model is named", {"objective": {"teacher": "", "sha256": ""}}),
        ("another noise schedule", {"schedule": {"use": "vp", "kind": "cosine"}}),
    ]
    for words, parts in refused:
        with pytest.raises(LDMError, match=words):
            distil(teacher, "trainer.steps=1", out=tmp_path / "none", **parts)


def _other_stage(teacher: Path, folder: Path) -> Path:
    """The same kind of first stage, and another file."""
    from safetensors.torch import save_file

    found = folder / "stage.safetensors"
    tensors = {k: v + 1 for k, v in load_file(teacher / "first_stage.safetensors").items()}
    save_file(tensors, found, artifacts.metadata("first_stage", "identity", {"channels": 3}, {}))
    return found


def test_a_low_rank_student_of_a_range_of_scales(teacher: Path, tmp_path: Path) -> None:
    """Stopped and gone on with, bit for bit; its files put on the teacher give the student's pictures, by scale."""
    low: dict[str, Any] = {
        "method": "progressive",
        "rank": 2,
        "trainer": {"steps": 4, "checkpoint_every": 1, "lr": 0.05},
    }
    asked = ("objective.begin=8", "objective.scale=[2,8]", "objective.decay=0.5", "trainer.validate_images=2")
    stop = lambda progress: progress.stage == "denoiser" and progress.step >= 2  # noqa: E731
    whole = distil(teacher, *asked, steps=2, out=tmp_path / "whole", **low)
    run = distil(
        teacher, *asked, steps=2, out=tmp_path / "run", callback=lambda p: None if not stop(p) else False, **low
    )
    assert not run.finished
    run = distil(teacher, *asked, steps=2, out=tmp_path / "run", **low)
    assert run.finished and whole.finished
    one, two = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "run")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert [key for key in one if key.startswith("model/state/objective.former.kept.adapters/few_steps/up")]
    theirs, mine = weights(teacher), weights(tmp_path / "run")
    assert all(torch.equal(theirs[key], mine[key]) for key in theirs), "a frozen weight moved"
    files = {name: tmp_path / "run" / "adapters" / f"{name}.safetensors" for name in ("few_steps", "guidance_scale")}
    assert artifacts.read_header(str(files["few_steps"]), "adapter").config["rank"] == 2
    assert recipe_of(tmp_path / "run")["guidance"] == {"use": "embedded", "scale": 3.0, "trained": [2.0, 8.0]}

    student, base = run.pipeline(device="cpu"), ldm_core.load(str(teacher), device="cpu")
    put = {name: {"weights": str(file)} for name, file in files.items()}
    own = {key: recipe_of(tmp_path / "run")[key] for key in ("sampler", "time_grid", "guidance")}
    base = base.with_settings({"adapters": put, **own})
    pictures = {}
    for scale in (2.0, 8.0):
        for name, pipeline in (("student", student), ("base", base)):
            found = pipeline.sample(inputs={"class_label": 1}, images=1, seed=3, steps=2, guidance=scale)
            pictures[name, scale] = found[0].image
        assert np.array_equal(pictures["student", scale], pictures["base", scale])
    assert not np.array_equal(pictures["student", 2.0], pictures["student", 8.0]), "the scale is not read"
    with pytest.raises(ConfigError, match="trained for 2 to 8"):
        student.sample(inputs={"class_label": 1}, images=1, guidance=12.0)


def test_a_low_rank_student_by_the_command(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["distil", str(teacher), "--rank", "1", "--steps", "1", "--train-steps", "1", "--out", str(out), "--quiet"]
    assert main([*line, "trainer.validate_images=2"]) == 0
    made = recipe_of(out)
    assert (made["trainer"]["train"], made["adapters"][0]["use"]) == ("adapters", "low_rank")
    assert made["trainer"]["lr"] == recipe_of(teacher)["trainer"]["lr"] and made["guidance"]["use"] == "none"
    assert (out / "adapters" / "few_steps.safetensors").is_file()


def test_an_adapter_by_another_plugin_is_the_student(teacher: Path, tmp_path: Path) -> None:
    if "lora" not in Catalog.discover().names("adapter"):
        pytest.skip("no other low-rank adapter is installed")
    low: dict[str, Any] = {"adapters": [{"use": "lora", "rank": 2}], "trainer": {"train": "adapters", "steps": 2}}
    run = distil(teacher, out=tmp_path / "run", **low)
    assert run.finished and list((tmp_path / "run" / "adapters").iterdir())
    assert any(".kept.adapters/" in key for key in checkpoint(tmp_path / "run") if "objective.target" in key)
    theirs, mine = weights(teacher), weights(tmp_path / "run")
    assert all(torch.equal(theirs[key], mine[key]) for key in theirs)
