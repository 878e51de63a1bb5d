"""An adversarial first stage trains alike on one process and on two, under ZeRO 0 to 2, and in micro-batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import first_stage_curves
import pytest
from first_stage_curves import EVERYTHING, largest_difference
from one_thread import each_test as _one_thread  # noqa: F401  (as in the other processes)

TOLERANCE = 1e-5


def on_two_processes(out: Path, trials: dict[str, Any]) -> dict[str, Any]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*launcher, first_stage_curves.__file__, str(out), json.dumps(trials)]
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "support"), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def compare(kind: str, stages: tuple[int, ...], out: Path) -> None:
    alone = first_stage_curves.everything(
        {"whole": (kind, *EVERYTHING), "micro-batches": (kind, *EVERYTHING, "accumulate=2")}
    )
    two = on_two_processes(out, {f"two, ZeRO {z}": (kind, *EVERYTHING, f"zero={z}") for z in stages})
    whole = alone["whole"]
    assert len(whole["curve"]) == 20 and "adaptive_weight" in whole["curve"][-1] and "r1" in whole["curve"][-1]
    for label, other in {"micro-batches": alone["micro-batches"], **two}.items():
        worst = largest_difference(whole["curve"], other["curve"])
        print(label, {k: f"{v:.1e}" for k, v in worst.items()})
        assert worst["loss"] < TOLERANCE, label
        counted = {k: v for k, v in worst.items() if k in ("codebook_used", "perplexity", "nll", "discriminator", "kl")}
        assert max(counted.values()) < TOLERANCE, label
        for key in ("psnr", "ssim", "fd_random", "mean", "std"):
            assert other[key] == pytest.approx(whole[key], rel=1e-4), (label, key)


def test_two_processes_and_micro_batches_give_the_curve_of_one(tmp_path: Path) -> None:
    compare("vq", (2,), tmp_path / "two.json")


def test_two_processes_revive_the_same_codes(tmp_path: Path) -> None:
    """From a random start most codes are dead: the third step moves them onto latents of the whole batch."""
    trial = ("vq", "revive_every=3", "codebook_init_images=0", "adversarial=false", "lr=1e-4", "steps=8")
    alone = first_stage_curves.everything({"it": trial})["it"]["curve"]
    two = on_two_processes(tmp_path / "two.json", {"it": trial})["it"]["curve"]
    used = [round(row["codebook_used"] * 32) for row in alone]
    assert max(used[:3]) <= 12 and min(used[3:]) >= 20, used
    assert largest_difference(alone, two)["loss"] < TOLERANCE
    assert [round(row["codebook_used"] * 32) for row in two] == used


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_every_zero_stage_gives_the_curve_of_one_process(kind: str, tmp_path: Path) -> None:
    compare(kind, (0, 1, 2), tmp_path / "two.json")


def test_what_is_measured_has_the_same_bits_on_two_processes(tmp_path: Path) -> None:
    """Of the same weights: shared out over the processes, put together in the images' order."""
    trial = ("untrained vq", "validate_images=24")
    alone = first_stage_curves.everything({"it": trial})["it"]
    two = on_two_processes(tmp_path / "two.json", {"it": trial})["it"]
    assert set(alone) == {"curve", "psnr", "ssim", "fd_random", "mean", "std"}
    assert two == alone
