"""``ldm-run ema``: a model of another averaging width from a run's snapshots, which then samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import Watch, go, weights

from ldm_core import load
from ldm_core.cli import main
from ldm_core.errors import Interrupted
from ldm_core.recipe import artifacts

STAGES = ("first_stage", "latents", "denoiser")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("averaged")
    part = {"use": "class_label", "width": 16, "dropout": 0.1}
    frozen = {"use": "class_label", "name": "fixed", "width": 16, "train": False}
    settings = ["trainer.ema_power=[0.05,0.1,0.2]", "trainer.ema_snapshots=2"]
    go(out, *settings, stages=STAGES, conditioners=[part, frozen])
    return out


def test_a_tracked_width_comes_back_and_the_model_samples(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run / "tenth.safetensors"
    assert main(["ema", str(run), "--width", "0.1", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "done" and (told["snapshots"], told["step"]) == (4, 8)
    assert told["profile_error"] < 1e-5
    made, plain = load_file(str(out)), weights(run)
    stored = load_file(str(run / "ema" / "step-00000008.safetensors"))
    tracked = {k.removeprefix("1/"): v for k, v in stored.items() if k.startswith("1/")}
    assert made.keys() == plain.keys() and tracked
    for name, value in made.items():
        if name in tracked:
            torch.testing.assert_close(value, tracked[name], rtol=1e-4, atol=1e-6)
        else:  # a frozen conditioner, buffers
            assert torch.equal(value, plain[name])
    assert any(k.startswith("conditioners.fixed") and k not in tracked for k in made)
    header = artifacts.read_header(str(out), "model")
    assert header.extra["ema_width"] == 0.1 and header.extra["averaged"] is True
    before = artifacts.read_header(str(run / "model.safetensors"), "model")
    assert header.extra["first_stage_sha256"] == before.extra["first_stage_sha256"]
    sampled = load(str(out)).sample(inputs={"class_label": 1}, images=1, steps=2)
    assert sampled[0].image.shape == (3, 16, 16)


def test_an_earlier_step_and_a_width_that_is_held_badly(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run / "narrow.safetensors"
    assert main(["ema", str(run), "--width", "0.01", "--out", str(out), "--step", "6"]) == 0
    told = capsys.readouterr()
    assert "averages of relative width 0.01 at step 6, from 3 snapshots" in told.out
    assert "the snapshots hold this width badly" in told.err


def test_mistakes_are_told_in_a_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.safetensors")
    assert main(["ema", str(run), "--width", "0.5", "--out", out]) == 2
    assert "width: expected a number above 0 and up to 0.28, got 0.5" in capsys.readouterr().err
    assert main(["ema", str(run), "--width", "0.1", "--out", out, "--step", "3"]) == 2
    assert "--step 3: there is no snapshot of that step; the nearest is 2" in capsys.readouterr().err
    assert main(["ema", str(tmp_path), "--width", "0.1", "--out", out]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not Path(out).exists()


def test_a_resumed_run_ends_with_the_same_averages(tmp_path: Path) -> None:
    settings = ["trainer.ema_power=[0.1]", "objective.learn_logvar=true", "trainer.ema_snapshots=4"]
    changes: dict[str, Any] = {"objective": {"use": "simple"}}
    go(tmp_path / "a", *settings, stages=STAGES, **changes)
    with pytest.raises(Interrupted):
        go(tmp_path / "b", *settings, stages=STAGES, watch=Watch(stop=("denoiser", 5)), **changes)
    go(tmp_path / "b", *settings, stages=STAGES, **changes)
    for step in (4, 8):
        a, b = (load_file(str(tmp_path / n / "ema" / f"step-{step:08d}.safetensors")) for n in "ab")
        assert a and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not any("log_variance" in k for k in a)  # the objective's own weights stay out of the model
