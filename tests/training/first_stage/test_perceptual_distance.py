"""First stages trained with a perceptual distance by name: any timm network's, LPIPS in either spelling, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import VQ, Watch, go, weights

from ldm_core.errors import CheckpointError, ConfigError, Interrupted
from ldm_core.nn.torchvision_operators import importable

FIRST = ("first_stage",)
BASE = ["stage_objective.adversarial=false", "stage_objective.perceptual_weight=0.5"]


def network_file(path: Path, seed: int = 0) -> Path:
    with importable():
        import timm
    torch.manual_seed(seed)
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), path)
    return path


def features(file: Path, more: str = "") -> str:
    settings = f"use: features, network: resnet10t, weights: {file}, layers: [layer1, layer2]{more}"
    return f"stage_objective.perceptual={{{settings}}}"


def first_row(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    return found


def test_the_loss_is_the_plain_one_and_the_distance(tmp_path: Path) -> None:
    file = network_file(tmp_path / "network.pth")
    steps = "first_stage_trainer.steps=2"
    go(tmp_path / "a", *BASE, "stage_objective.perceptual={use: none}", steps, stages=FIRST, first_stage=VQ)
    told = go(tmp_path / "b", *BASE, features(file), steps, stages=FIRST, first_stage=VQ)
    a, b = first_row(tmp_path / "a"), first_row(tmp_path / "b")
    assert "perceptual" not in a and b["pixel"] == a["pixel"]
    assert b["nll"] == pytest.approx(a["nll"] + 0.5 * b["perceptual"], rel=1e-5) and b["perceptual"] > 0
    assert any("features 0." in m and "PSNR" in m for m in told.messages)
    stage = weights(tmp_path / "b", "first_stage.safetensors")
    assert stage.keys() == weights(tmp_path / "a", "first_stage.safetensors").keys()
    kept = list((tmp_path / "b" / "checkpoints").rglob("*.safetensors"))
    assert kept and not [k for p in kept for k in weights(p.parent, p.name) if "layer1" in k]


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    file = network_file(tmp_path / "network.pth")
    go(tmp_path / "a", *BASE, features(file), stages=FIRST, first_stage=VQ)
    with pytest.raises(Interrupted):
        go(tmp_path / "b", *BASE, features(file), stages=FIRST, first_stage=VQ, watch=Watch(stop=("first_stage", 3)))
    go(tmp_path / "b", *BASE, features(file), stages=FIRST, first_stage=VQ)
    a, b = (weights(tmp_path / n, "first_stage.safetensors") for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_weights_count_by_their_content(tmp_path: Path) -> None:
    """The same file elsewhere is the same stage, with its hash told too; another content under its name is not."""
    from ldm_core.recipe.artifacts import hash_of

    here, there = network_file(tmp_path / "here.pth"), tmp_path / "there.pth"
    there.write_bytes(here.read_bytes())
    base = [*BASE, "first_stage_trainer.steps=1"]
    go(tmp_path / "run", *base, features(here), stages=FIRST, first_stage=VQ)
    told = f", weights_sha256: {hash_of(str(there))}"
    again = go(tmp_path / "run", *base, features(there, told), stages=FIRST, first_stage=VQ)
    assert ("first_stage", "skipped") in again.ends
    network_file(there, seed=1)
    with pytest.raises(CheckpointError, match="made with another recipe"):
        go(tmp_path / "run", *base, features(there), stages=FIRST, first_stage=VQ)


def test_both_spellings_of_lpips_train_the_same(tmp_path: Path) -> None:
    from ldm_plugin_adversarial.perceptual.lpips import LPIPS

    torch.manual_seed(0)
    torch.save(LPIPS().state_dict(), tmp_path / "lpips.pth")
    base = [*BASE, "first_stage_trainer.steps=1"]
    for name, key in (
        ("a", "stage_objective.lpips={}"),
        ("b", "stage_objective.perceptual={{use: lpips, weights: {}}}"),
        ("c", "first_stage_trainer.lpips={}"),
    ):
        go(tmp_path / name, *base, key.format(tmp_path / "lpips.pth"), stages=FIRST, first_stage=VQ)
    stages = [weights(tmp_path / n, "first_stage.safetensors") for n in "abc"]
    assert all(torch.equal(stages[0][k], other[k]) for other in stages[1:] for k in stages[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage_objective.perceptual={}"], r"perceptual\.network: the name of a timm network is missing"),
        (["stage_objective.perceptual={use: feature}"], "did you mean 'features'"),
        (
            ["stage_objective.perceptual={network: resnet10t, weights: absent.pth}"],
            r"no file absent\.pth; get them once",
        ),
        (["stage_objective.perceptual={use: none, layers: [a]}"], r"perceptual\.layers: is a setting of features"),
        (
            ["stage_objective.perceptual={use: none}", "stage_objective.lpips=x.pth"],
            r"stage_objective\.lpips: perceptual is given too",
        ),
        (["stage_objective.perceptual={netwrk: x}"], r"stage_objective\.perceptual\.netwrk: unknown key"),
    ],
)
def test_the_check_says_what_is_wrong(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        go(tmp_path / "run", *BASE, *settings, stages=FIRST, first_stage=VQ)
