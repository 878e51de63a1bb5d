"""The same run on other numbers of processes, ZeRO stages and micro-batches: losses, validation, averages, weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from training_runs import go, under_zero, weights

STAGES = ("first_stage", "latents", "denoiser")
CHANGES: dict[str, Any] = {
    "conditioners": [{"use": "class_label", "width": 16, "dropout": 0.3}],
    "objective": {"use": "simple", "learn_logvar": True, "times": "logit_normal"},
    "metrics": ["brightness"],
}
SETTINGS = ["trainer.images_per_step=8", "trainer.ema_power=[0.1]", "trainer.validate_images=8",
            "trainer.joint_dropout=0.1", "trainer.evaluate_every=4", "trainer.evaluate_images=20"]  # fmt: skip
TOLERANCE = 1e-5


def settings(steps: int, zero: int, accumulate: int) -> list[str]:
    every = min(4, steps // 2)
    own = {"steps": steps, "validate_every": every, "accumulate": accumulate}
    return [*SETTINGS, *under_zero(zero), *(f"trainer.{name}={value}" for name, value in own.items())]


def alone(out: Path, steps: int, zero: int = 0, accumulate: int = 1) -> Path:
    go(out, *settings(steps, zero, accumulate), stages=STAGES, **CHANGES)
    return out


BAD = """
import os, pathlib, pytest
from ldm_core.errors import TrainingError
from test_guards import poison, seed_of
folder, rank = pathlib.Path({folder!r}), os.environ["RANK"]
poison(pytest.MonkeyPatch(), [seed_of(0, 5)])
watch = go(folder / "skip", "trainer.bad_steps=skip", "trainer.steps=3", stages={stages!r})
(folder / f"skipped-{{rank}}").write_text("".join(m for m in watch.messages if "left out" in m))
try:
    go(folder / "stop", stages={stages!r})
except TrainingError as error:
    (folder / f"stopped-{{rank}}").write_text(str(error))
"""


BEGIN = """
import os
from ldm_core.errors import Interrupted
from training_runs import Watch, go

def train(out, settings, stop):
    watch = Watch(("denoiser", stop)) if stop and os.environ["RANK"] == "0" else None
    try:
        go(out, *settings, watch=watch, stages={stages!r}, **{changes!r})
        assert not stop
    except Interrupted:
        assert stop
"""


def by_two(folder: Path, steps: int, cases: list[tuple[int, int]], more: str = "", stop: int = 0) -> list[Path]:
    """Train with two processes, one run a (zero, accumulate), all in the same two processes; `stop` after a step."""
    outs = [folder / f"two-zero{zero}-by{accumulate}" for zero, accumulate in cases]
    lines = [BEGIN.format(stages=STAGES, changes=CHANGES)]
    for out, (zero, accumulate) in zip(outs, cases, strict=True):
        lines.append(f"train({str(out)!r}, {settings(steps, zero, accumulate)!r}, {stop})")
    script = folder / "main.py"
    script.write_text("\n".join([*lines, more, ""]))
    on_ranks(script, timeout=540)
    return outs


def rows(out: Path, stage: str, key: str) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in lines if row["stage"] == stage]


def apart(out: Path, whole: Path) -> dict[str, float]:
    """The largest relative difference of each thing that must not differ."""

    def relative(stage: str, key: str) -> float:
        a, b = rows(out, stage, key), rows(whole, stage, key)
        assert len(a) == len(b) > 0
        return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))

    def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        assert a.keys() == b.keys()
        return max(float((a[k].float() - b[k].float()).abs().max()) for k in a)

    def brightness(out: Path) -> list[float]:
        return rows(out, "denoiser_metrics", "brightness")

    names = sorted(p.name for p in (whole / "ema").iterdir())
    assert names == sorted(p.name for p in (out / "ema").iterdir()) and names
    last = Path("ema") / names[-1]
    return {
        "loss": relative("denoiser", "loss"),
        "val_loss": relative("denoiser_validation", "val_loss"),
        "val_loss_t0": relative("denoiser_validation", "val_loss_t0"),
        # of pictures with 256 levels, in which a difference of the weights may be none or a whole level
        "metrics": max(abs(a - b) for a, b in zip(brightness(out), brightness(whole), strict=True)),
        "weights": distance(weights(out), weights(whole)),
        "averages": distance(load_file(str(out / last)), load_file(str(whole / last))),
    }


def test_two_processes_under_zero_train_the_same_model(tmp_path: Path) -> None:
    """They are stopped after five of six steps; one process without ZeRO takes the last one, in two micro-batches."""
    whole = alone(tmp_path / "whole", steps=6)
    assert len(rows(whole, "denoiser", "loss")) == 6
    assert (
        len(rows(whole, "denoiser_validation", "val_loss")) == len(rows(whole, "denoiser_metrics", "brightness")) == 2
    )
    (out,) = by_two(tmp_path, 6, [(3, 1)], BAD.format(folder=str(tmp_path), stages=STAGES), stop=5)
    assert len(rows(out, "denoiser", "loss")) == 5 and not (out / "model.safetensors").exists()
    found = apart(alone(out, steps=6, accumulate=2), whole)
    assert max(found.values()) < TOLERANCE, found
    # One bad example, which one of the two has: both leave the step out, or stop with the same words.
    assert all(bool(v.isfinite().all()) for v in weights(tmp_path / "skip").values())
    told = {what: [(tmp_path / f"{what}-{rank}").read_text() for rank in (0, 1)] for what in ("skipped", "stopped")}
    skipped, stopped = told["skipped"], told["stopped"]
    assert "the loss is nan at step" in skipped[0] and "for example 5 of epoch 0" in skipped[0] and not skipped[1]
    assert stopped[0] == stopped[1] and "for example 5 of epoch 0;" in stopped[0]


@pytest.mark.slow
def test_processes_stages_and_accumulation_over_fifty_steps(tmp_path: Path) -> None:
    """Also prints the table that is wanted of it."""
    whole = alone(tmp_path / "whole", steps=50)
    outs = [alone(tmp_path / f"one-zero{z}-by{a}", 50, z, a) for z, a in [(1, 1), (2, 1), (3, 1), (0, 2), (2, 2)]]
    outs += by_two(tmp_path, 50, [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (2, 2), (3, 2)])
    table = {out.name: apart(out, whole) for out in outs}
    for name, found in table.items():
        print(name, {k: f"{v:.1e}" for k, v in found.items()})
    assert max(found["loss"] for found in table.values()) < TOLERANCE
    assert max(max(found.values()) for found in table.values()) < 10 * TOLERANCE
