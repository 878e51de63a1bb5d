"""Whole runs with what the engine offers: ZeRO 3, offload, recomputed activations, compiled networks, two parts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from training_runs import VQ, Watch, go, weights

from ldm_core.errors import ConfigError, Interrupted

MODEL = ("first_stage", "latents", "denoiser")
SPREAD = "trainer.deepspeed={zero_optimization: {stage3_param_persistence_threshold: 0, stage3_max_reuse_distance: 0}}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    go(out, stages=MODEL)
    return out


def close(a: Path, b: Path, name: str = "model.safetensors", atol: float = 1e-6) -> None:
    one, two = weights(a, name), weights(b, name)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=atol, msg=key)


def test_zero_3_with_all_offloaded_trains_the_same_model_and_resumes(whole: Path, tmp_path: Path) -> None:
    """Stopped under ZeRO 3 and ended under it, with blocks that are recomputed."""
    linear = torch.nn.functional.linear
    changes = ["trainer.zero=3", "trainer.offload=all", "trainer.activation_checkpointing=true", SPREAD]
    with pytest.raises(Interrupted):
        go(tmp_path, *changes, stages=MODEL, watch=Watch(stop=("denoiser", 3)))
    again = go(tmp_path, *changes, stages=MODEL)
    assert ("denoiser", 4) in again.steps and ("denoiser", 3) not in again.steps
    close(whole, tmp_path)
    assert torch.nn.functional.linear is linear, "what the process does later has the bits that it had before"


def test_recomputed_activations_train_the_same_first_stage(tmp_path: Path) -> None:
    base = ["first_stage_trainer.steps=4", "first_stage_trainer.adversarial_start=1"]
    for name, more in (("a", []), ("b", ["first_stage_trainer.activation_checkpointing=true"])):
        go(tmp_path / name, *base, *more, stages=("first_stage",), first_stage=VQ)
    close(tmp_path / "a", tmp_path / "b", "first_stage.safetensors")


def test_fp16_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Also the model's, which would come only after the first stage."""
    if torch.cuda.is_available():
        pytest.skip("an accelerator can do it")
    with pytest.raises(ConfigError, match=r"trainer.precision: fp16 needs an accelerator"):
        go(tmp_path / "run", "trainer.precision=fp16", stages=MODEL)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compiled_networks_train_the_same_model(whole: Path, tmp_path: Path) -> None:
    """With the same names in its file; under ZeRO 2, with blocks that are recomputed too."""
    if not any(shutil.which(n) for n in ("g++", "clang++")):
        pytest.skip("needs a C++ compiler")
    for zero, recomputed in ((0, "false"), (2, "true")):
        more = [f"trainer.zero={zero}", f"trainer.activation_checkpointing={recomputed}"]
        go(tmp_path / str(zero), "trainer.compile=true", *more, stages=MODEL)
        close(whole, tmp_path / str(zero), atol=1e-5)


@pytest.mark.slow
def test_a_compiled_first_stage_trains_the_same(tmp_path: Path) -> None:
    if not any(shutil.which(n) for n in ("g++", "clang++")):
        pytest.skip("needs a C++ compiler")
    for name, more in (("a", []), ("b", ["first_stage_trainer.compile=true"])):
        go(tmp_path / name, "first_stage_trainer.steps=4", *more, stages=("first_stage",), first_stage=VQ)
    close(tmp_path / "a", tmp_path / "b", "first_stage.safetensors", atol=1e-4)
