"""Runs that are killed at random moments and started again end with the very bits of a run that nobody disturbed; runs
that go on with other processes or under another ZeRO stage end with the same weights to rounding."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from forked import Command, Process
from safetensors.torch import load_file
from training_runs import under_zero

PROGRAM = Path(__file__).parents[1] / "support" / "processes" / "killed_runs.py"


def run(out: Path, timeout: float = 240, **job: Any) -> list[dict[str, Any]]:
    """The attempts of :mod:`killed_runs`, in a process with one thread; logs lie beside `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = Process(Command([str(PROGRAM), json.dumps({"out": str(out), **job})])).end(timeout)
    log = (out.parent / "log-0.txt").read_text() if (out.parent / "log-0.txt").exists() else ""
    assert done.code == 0, done.err[-2000:] + log[-3000:]
    attempts = json.loads(done.out.splitlines()[-1])
    assert not any(a["failed"] for a in attempts), log[-3000:]
    assert not attempts[-1]["killed"]
    return attempts


def digests(out: Path) -> dict[str, str]:
    names = ("first_stage.safetensors", "model.safetensors", "best.safetensors")
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def held(out: Path, attempts: list[dict[str, Any]], kills: int) -> None:
    """So many kills, some of them inside a write, and nothing half-written or temporary is left."""
    assert sum(a["killed"] for a in attempts) == kills
    assert sum(a["in_write"] for a in attempts) == (kills + 1) // 3
    assert not any(a["timed_out"] for a in attempts)
    print(f"{kills} kills: {sum(a['killed'] and a['training'] for a in attempts)} in training, "
          f"{sum(a['in_write'] for a in attempts)} of them inside a write")  # fmt: skip
    assert not list(out.rglob("*.part")) and not (out / "lock").exists()
    for folder in (out / "checkpoints").glob("*/*"):
        assert (folder / "manifest.json").exists(), folder
    stage = load_file(out / "first_stage.safetensors")  # with the statistics of its latents, measured after training
    assert not stage["latent_mean"].eq(0).any() and not stage["latent_std"].eq(1).any()


FEW = ["first_stage_trainer.steps=8", "trainer.steps=12"]


@pytest.mark.parametrize(
    "kills, seed, settings", [(3, 1, FEW), pytest.param(20, 2, [], marks=pytest.mark.slow)], ids=["3", "20"]
)
def test_one_process(tmp_path: Path, kills: int, seed: int, settings: list[str]) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    attempts = run(out, whole=str(whole), kills=kills, seed=seed, settings=settings)
    held(out, attempts, kills)
    assert digests(whole) == digests(out)


def distance(a: Path, b: Path) -> float:
    """The largest difference of two runs' models."""
    x, y = (load_file(out / "model.safetensors") for out in (a, b))
    assert x.keys() == y.keys()
    return max(float((x[k].float() - y[k].float()).abs().max()) for k in x)


LEGS = [
    [(2, 3), (1, 0)],
    [(1, 0), (2, 3), (2, 2)],
    [(1, 1), (2, 1), (1, 3)],
    [(2, 2), (1, 2), (2, 0)],
    [(2, 0), (2, 3), (1, 1)],
    [(1, 3), (2, 3), (2, 3)],
]


@pytest.mark.slow
@pytest.mark.parametrize("legs", LEGS, ids=lambda legs: "-".join(f"{ranks}x{zero}" for ranks, zero in legs))
def test_other_processes_and_zero_stages(tmp_path: Path, legs: list[tuple[int, int]]) -> None:
    """(processes, ZeRO stage) one after the other, against one process without ZeRO that nobody disturbed. One pair is
    in the normal suite, among the tests of rank independence."""
    settings = ["first_stage_trainer.steps=1", "first_stage_trainer.adversarial=false", "trainer.steps=9",
                "denoiser.dropout=0.0", "conditioners.class_label.train=true"]  # fmt: skip
    whole = {"out": str(tmp_path / "whole"), "settings": settings}
    chain = [
        {
            "out": str(tmp_path / "run"),
            "ranks": ranks,
            "settings": [*settings, *under_zero(stage), f"trainer.accumulate={2 // ranks}"],
            **({"stop": ["denoiser", 3 * number]} if number < len(legs) else {}),
        }
        for number, (ranks, stage) in enumerate(legs, 1)
    ]
    run(tmp_path / "run", chains=[[whole], chain])
    assert distance(tmp_path / "whole", tmp_path / "run") < 1e-5


@pytest.mark.slow
def test_two_processes_under_zero_2(tmp_path: Path) -> None:
    job: dict[str, Any] = {"ranks": 2, "settings": ["trainer.zero=2", "first_stage_trainer.zero=2"], "timeout": 600}
    whole, out = tmp_path / "whole", tmp_path / "run"
    attempts = run(out, whole=str(whole), kills=20, seed=3, **job)
    held(out, attempts, 20)
    assert digests(whole) == digests(out)
