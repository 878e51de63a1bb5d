"""An adversarial first stage trains alike on one process and on two, under ZeRO 0 to 2, and in micro-batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import first_stage_curves
import pytest
from first_stage_curves import EVERYTHING, largest_difference
from one_thread import each_module as _one_thread  # noqa: F401  (as in the other processes)
from ranks import on_ranks

TOLERANCE = 1e-5


REVIVED = ("vq", "revive_every=3", "codebook_init_images=0", "adversarial=false", "lr=1e-4", "steps=8")
MEASURED = ("untrained vq", "validate_images=24")


def on_two_processes(out: Path, trials: dict[str, Any]) -> dict[str, Any]:
    on_ranks(first_stage_curves.__file__, str(out), json.dumps(trials))
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def by_zero(kind: str, stages: tuple[int, ...]) -> dict[str, Any]:
    return {f"two, ZeRO {z}": (kind, *EVERYTHING, f"zero={z}") for z in stages}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes find, which are started once for all tests."""
    trials = {**by_zero("vq", (2,)), "revived": REVIVED, "measured": MEASURED}
    return on_two_processes(tmp_path_factory.mktemp("two") / "two.json", trials)


def compare(kind: str, two: dict[str, Any]) -> None:
    """One process, in one go and in micro-batches, against what `two` found under some ZeRO stages."""
    alone = first_stage_curves.everything(
        {"whole": (kind, *EVERYTHING), "micro-batches": (kind, *EVERYTHING, "accumulate=2")}
    )
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


def test_two_processes_and_micro_batches_give_the_curve_of_one(two: dict[str, Any]) -> None:
    compare("vq", {name: two[name] for name in by_zero("vq", (2,))})


def test_two_processes_revive_the_same_codes(two: dict[str, Any]) -> None:
    """From a random start most codes are dead: the third step moves them onto latents of the whole batch."""
    alone = first_stage_curves.everything({"it": REVIVED})["it"]["curve"]
    curve = two["revived"]["curve"]
    used = [round(row["codebook_used"] * 32) for row in alone]
    assert max(used[:3]) <= 12 and min(used[3:]) >= 20, used
    assert largest_difference(alone, curve)["loss"] < TOLERANCE
    assert [round(row["codebook_used"] * 32) for row in curve] == used


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_every_zero_stage_gives_the_curve_of_one_process(kind: str, tmp_path: Path) -> None:
    compare(kind, on_two_processes(tmp_path / "two.json", by_zero(kind, (0, 1, 2))))


def test_what_is_measured_has_the_same_bits_on_two_processes(two: dict[str, Any]) -> None:
    """Of the same weights: shared out over the processes, put together in the images' order."""
    alone = first_stage_curves.everything({"it": MEASURED})["it"]
    assert set(alone) == {"curve", "psnr", "ssim", "fd_random", "mean", "std"}
    assert two["measured"] == alone
