"""The main command with its defaults, judged by a reader that knows nothing of networks: classical image analysis.

Slow: the whole command is run as a user types it. LDM_ACCEPTANCE_OUT keeps the run's folder (and reuses a finished
one); LDM_ACCEPTANCE_ARGS adds arguments, e.g. the longer recipe.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shape_reader import read_shape

from ldm_core import load
from ldm_core.builtin.shapes.dataset import held_out_prompts, held_out_scenes
from ldm_core.contracts import Site

COMMAND = ["--first-stage", "vq_f4", "--cond", "text", "--sampler", "ddim"]
PROMPTS = 200
SEED = int(os.environ.get("LDM_ACCEPTANCE_SEED", "1"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = os.environ.get("LDM_ACCEPTANCE_OUT") or str(tmp_path_factory.mktemp("acceptance") / "run")
    extra = shlex.split(os.environ.get("LDM_ACCEPTANCE_ARGS", ""))
    fresh = not (Path(out) / "model.safetensors").exists()
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ldm_core.cli", *COMMAND, *extra, "--out", out, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr[-2000:]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # MiB, of the largest process
    return {"out": out, "seconds": seconds, "peak": peak, "fresh": fresh, "json": json.loads(done.stdout)}


@pytest.fixture(scope="module")
def judged(run: dict[str, Any]) -> dict[str, Any]:
    pipeline = load(run["out"])
    site = Site(size=pipeline.recipe.image_size)
    prompts = held_out_prompts(PROMPTS, seed=SEED)
    scenes = held_out_scenes(PROMPTS, site)
    truth = [(p.colour, p.shape) for p in prompts]
    made = pipeline.sample([p.caption for p in prompts], guidance=3.0, steps=50, seed=100 * SEED, batch=50)
    read = [read_shape(s.image) for s in made]
    got = [(r.colour, r.shape) for r in read]
    true_prompts = held_out_prompts(PROMPTS, seed=0)  # prompt i of seed 0 is scene i
    originals = np.stack([scenes[i]["image"] for i in range(PROMPTS)])
    scene_truth = [(p.colour, p.shape) for p in true_prompts]
    of_scenes = [(r.colour, r.shape) for r in map(read_shape, originals)]
    again = [(r.colour, r.shape) for r in map(read_shape, pipeline.reconstruct(originals))]
    shuffled = list(truth)
    random.Random(0).shuffle(shuffled)
    seen = [i for i, p in enumerate(prompts) if not p.held_out_pair]
    unseen = [i for i, p in enumerate(prompts) if p.held_out_pair]

    def share(a: list[Any], b: list[Any], rows: list[int] | None = None) -> float:
        rows = list(range(len(a))) if rows is None else rows
        return sum(a[i] == b[i] for i in rows) / max(1, len(rows))

    out: dict[str, Any] = {
        "both": share(got, truth),
        "colour": share([g[0] for g in got], [t[0] for t in truth]),
        "shape": share([g[1] for g in got], [t[1] for t in truth]),
        "seen_pairs": share(got, truth, seen),
        "held_out_pairs": share(got, truth, unseen),
        "reconstructions": share(again, scene_truth),
        "scenes": share(of_scenes, scene_truth),
        "shuffled": share(got, shuffled),
        "chance": sum((n / PROMPTS) ** 2 for n in Counter(truth).values()),
        "wrong": Counter(f"{t} -> {g}" for t, g in zip(truth, got, strict=True) if t != g),
    }
    figures = {k: v for k, v in out.items() if k != "wrong"}
    print("\nACCEPTANCE", json.dumps({**figures, **{k: run[k] for k in ("seconds", "peak", "fresh")}}), run["json"])
    print(out["wrong"].most_common(12))
    return out


def test_time_and_memory(run: dict[str, Any]) -> None:
    assert run["peak"] < 4096
    if run["fresh"] and not os.environ.get("LDM_ACCEPTANCE_ARGS"):
        assert run["seconds"] < 600


def test_the_first_stage_reaches_30_db(run: dict[str, Any]) -> None:
    if not run["json"]["first_stage"]:
        pytest.skip("the first stage was given, not trained: nothing was measured")
    assert run["json"]["first_stage"]["psnr"] >= 30
    assert run["json"]["first_stage"]["held_out"] == 1


def test_samples_show_what_was_asked(judged: dict[str, Any]) -> None:
    wanted = 0.95 if os.environ.get("LDM_ACCEPTANCE_ARGS") else 0.85
    assert judged["scenes"] >= 0.95  # the reader can be trusted
    assert judged["both"] >= wanted
    assert judged["both"] >= 0.9 * judged["reconstructions"]


def test_shuffled_prompts_fall_to_chance(judged: dict[str, Any]) -> None:
    assert judged["shuffled"] <= judged["chance"] + 0.05


def test_the_run_left_what_it_says(run: dict[str, Any]) -> None:
    names = {p.name for p in Path(run["out"]).iterdir()}
    assert {"recipe.yaml", "metrics.jsonl", "samples.png", "model.safetensors"} <= names
    assert ("reconstructions.png" in names) == bool(run["json"]["first_stage"])
