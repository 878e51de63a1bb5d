"""The run's commands around a job that is faked: what it is handed, what is printed, and the JSON document."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.config.documents import parse_yaml
from ldm_core.errors import Interrupted, TrainingError
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.training import workflow
from ldm_core.training.folder.own_files import OwnFiles

NUMBERS = {"evaluated_images": 16, "held_out": 1, "psnr": 31.25, "ssim": 0.9126, "dead_codes": 3}
TRAINED = {
    "first_stage": {"step": 3.0, "loss": 0.5, "images_per_second": 40.0},
    "denoiser": {"step": 4000.0, "loss": 0.125, "validation_loss": 0.25, "images_per_second": 412.0,
                 "data_wait": 0.03, "peak_memory_mib": 1229.0},
}  # fmt: skip
CORE = ["--first-stage", "identity", "--cond", "none", "--sampler", "ddpm"]


@pytest.fixture(autouse=True)
def core_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LDM_PLUGINS", "")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the job; holds what it was called with."""
    seen: dict[str, Any] = {}

    def run(recipe: Any, info: Any, catalog: Any, out: str, **options: Any) -> workflow.RunResult:
        seen.update(recipe=recipe, info=info, out=out, **options)
        print("a library writes to stdout")
        os.write(1, b"and past Python\n")
        catalog.manager.hook.ldm_message(text="from the job", level="info")
        if "raises" in seen:
            raise seen["raises"]
        return workflow.RunResult(
            out=out,
            model=f"{out}/model.safetensors",
            samples=f"{out}/samples.png",
            first_stage=NUMBERS,
            seconds={"first_stage": 150.2, "denoiser": 9.9},
            status="done",
            trained=TRAINED,
            bad_examples=2,
            files=("denoiser_loss.png", "metrics.jsonl"),
        )

    monkeypatch.setattr(workflow, "run", run)
    return seen


def test_the_whole_run(job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CORE, "--out", "here", "--train-steps", "3", "trainer.lr=1e-4"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("recipe 'laptop': parts scaled down for a CPU (scale: small)")
    assert lines[-9:] == [
        "run folder: here (denoiser_loss.png, metrics.jsonl)",
        "first stage: PSNR 31.25 dB, SSIM 0.913, dead codes 3 on 16 held-out images; 3 steps at 40 images/s",
        "denoiser: loss 0.125, validation 0.25; 4000 steps at 412 images/s, data wait 3%, peak 1.2 GiB",
        "unreadable examples: 2, listed in here/bad_examples.txt",
        "model: here/model.safetensors",
        "samples: here/samples.png",
        "time: first stage 2 min 30 s, denoiser 10 s",
        "more images: ldm-run sample here",
        "your own pictures through the first stage: ldm-run reconstruct here PICTURE",
    ]
    assert "from the job" in err
    assert job["stages"] == ("first_stage", "latents", "denoiser", "samples")
    assert (job["recipe"].trainer.steps, job["recipe"].trainer.lr) == (3, 1e-4)
    assert (job["inputs"].rows, job["inputs"].strict) == (None, False)


@pytest.mark.parametrize(
    "reads, options",
    [
        ((), ""),
        (("caption",), " --prompt TEXT"),
        (("boxes", "box_labels"), " --boxes FILE"),
        (("class_label", "palette"), " --class NAME --input palette=..."),
    ],
)
def test_the_command_for_more_images_gives_what_the_model_reads(reads: tuple[str, ...], options: str) -> None:
    from types import SimpleNamespace

    from ldm_core.cli.summary import sample_command

    recipe: Any = SimpleNamespace(conditioners=[SimpleNamespace(config=SimpleNamespace(reads=reads))])
    assert sample_command("here", recipe) == f"ldm-run sample here{options}"


def test_json_is_one_document(job: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *CORE, "--json", "--strict"]) == 0
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert document == {
        "status": "done",
        "out": job["out"],
        "model": f"{job['out']}/model.safetensors",
        "samples": None,
        "first_stage": NUMBERS,
        "trained": TRAINED,
        "bad_examples": 2,
        "files": ["denoiser_loss.png", "metrics.jsonl"],
        "seconds": {"first_stage": 150.2, "denoiser": 9.9},
        "started": {},
        "recipe": {"name": job["recipe"].name, "identity": job["recipe"].identity()},
    }
    assert job["out"] == f"runs/{job['recipe'].name}"
    assert job["stages"] == ("first_stage", "latents", "denoiser")
    assert job["inputs"].strict is True
    for text in ("a library writes to stdout", "and past Python", "recipe 'laptop'", "from the job"):
        assert text in err


def test_force_gives_a_run_the_files_that_have_its_names(job: dict[str, Any]) -> None:
    for name in ("samples.png", "samples/0001.png", "samples/mine.png", "notes.txt"):
        storage.atomic_write(f"here/{name}", "the user's")
    assert main([*CORE, "--quiet", "--out", "here"]) == 0
    assert not Path("here/.ldm-files.json").exists(), "without --force nothing is taken over"
    assert main([*CORE, "--quiet", "--out", "here", "--force"]) == 0
    own = OwnFiles.read("here")
    assert own.owns("samples.png") and own.owns("samples/0001.png")
    assert not own.owns("samples/mine.png") and not own.owns("notes.txt")


def test_quiet(job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CORE, "--quiet", "--out", "here"]) == 0
    out, err = capsys.readouterr()
    assert "laptop" not in out and "from the job" not in err


@pytest.mark.parametrize(
    "error, code, status, err_line",
    [
        (TrainingError("the loss is nan"), 2, "error", "error: the loss is nan"),
        (Interrupted("stopped at step 5"), 130, "interrupted", "interrupted: stopped at step 5"),
    ],
)
def test_errors_of_the_job(
    job: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    status: str,
    err_line: str,
) -> None:
    job["raises"] = error
    assert main([*CORE, "--json"]) == code
    out, err = capfd.readouterr()
    assert json.loads(out) == {"status": status, "problems": [str(error)]}
    assert err_line in err.splitlines()


def test_other_processes_of_a_launcher_are_silent(
    job: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main([*CORE, "--out", "here"]) == 0
    out, err = capsys.readouterr()
    assert out == "a library writes to stdout\n"
    assert err == ""


def test_inputs_are_checked_before_anything_is_trained(job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CORE, "--prompt", "a red circle", "--input", "strength=2"]) == 2
    err = capsys.readouterr().err
    assert "error: input 'strength': nothing reads it (the model has no conditioner); see --cond" in err
    assert "error: input 'caption'" in err
    assert job == {}


def test_check_prints_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints is a complete recipe: checked again, it comes out the same."""
    assert main(["check", *CORE, "seed=4"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("recipe 'laptop'")
    assert err.splitlines()[-4:-1] == [
        "fine: the parts fit together, and the data has what they read",
        "model: pictures of 32x32, identity, latents of 3x32x32, unet, ddpm in 50 steps",
        "size: not counted; --count does, and imports torch",
    ]
    assert "(none for one without weights), then 2,000 steps of 64 for the denoiser; into runs/" in err.splitlines()[-1]
    plain = parse_yaml(out, "stdout")
    assert plain["seed"] == 4
    assert plain["first_stage"] == {"use": "identity", "channels": 3}
    Path("mine.yaml").write_text(out)
    assert main(["check", "--recipe", "mine.yaml"]) == 0
    again, notes = capsys.readouterr()
    assert again == out
    assert notes.startswith("fine: ")


def test_check_counts_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """As many as the networks have once they are made."""
    assert main(["check", *CORE, "--count", "--json", "--out", "o"]) == 0
    document = json.loads(capsys.readouterr().out)
    recipe, _ = workflow.prepare(document["recipe"], catalog := Catalog.discover())
    denoiser: Any = make_model(recipe, catalog, make_first_stage(recipe, catalog)).denoiser
    count = sum(each.numel() for each in denoiser.parameters())
    assert document["parameters"] == {"first stage": 0, "denoiser": count} and count > 10_000
    assert document["verdict"]["size"].startswith(f"size: {count:,} parameters, {4 * count / 1e6:,.1f} MB")
    assert document["verdict"]["run"].startswith("run: a first stage without weights, then ")


def test_a_recipe_by_its_place_is_told_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "mine.yaml"]) == 2
    assert "unexpected argument 'mine.yaml'; --recipe mine.yaml takes a recipe" in capsys.readouterr().err


def test_check_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *CORE, "--json", "--out", "o"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["out"]) == ("ok", "o")
    assert document["recipe"]["sampler"]["use"] == "ddpm"
    assert len(document["identity"]) == 64
    assert document["notes"][0].startswith("recipe 'laptop'")


def test_check_tells_everything_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    line = [*CORE, "trainer.stepz=3", "trainer.lr=fast", "first_stage.chanels=1", "denoiser=unett", "colour=1"]
    assert main(["check", *line, "--json"]) == 2
    out, err = capsys.readouterr()
    problems = json.loads(out)["problems"]
    assert [f"error: {p}" for p in problems] == err.splitlines()
    for said in (
        "trainer.stepz: unknown key; did you mean 'steps'?",
        "trainer.lr: expected a number, got 'fast'",
        "first_stage.chanels: unknown key; did you mean 'channels'?",
        "denoiser: no denoiser named 'unett'; did you mean 'unet'?",
        "colour: unknown key",
    ):
        assert any(p.startswith(said) for p in problems), said


@pytest.mark.parametrize(
    "line, said",
    [
        (["--first-stage", "vq_f4"], "no first_stage named 'vq_f4'; it comes with: pip install ldm-plugin-vq-ae"),
        (["--sampler", "ddim"], "no sampler named 'ddim'; it comes with: pip install ldm-plugin-ddim"),
        (["--cond", "text"], "no conditioner named 'text'; it comes with: pip install ldm-plugin-bert-text"),
        (["--guidance", "3"], "no guidance named 'cfg'; it comes with: pip install ldm-plugin-cfg"),
        (["--recipe", "laptopp"], "no recipe named 'laptopp'; did you mean 'laptop'?"),
        (["--recipe", "no/such.yaml"], "cannot read no/such.yaml: no such file or folder"),
        (["--first-stage", "no/such/run"], "no/such/run: no such file or folder"),
        (["--data", ""], "--data: empty"),
    ],
)
def test_what_is_not_there(capsys: pytest.CaptureFixture[str], line: list[str], said: str) -> None:
    assert main(["check", *line]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) <= 3, "an answer of a line or two"
