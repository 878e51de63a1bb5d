"""Runs, checkpoints and recipes made at commit 7a414d8 are read, sampled and continued with the same results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file

import ldm_core

FOLDER = "fixtures/made_at_7a414d8"
KEPT = next(parent / FOLDER for parent in Path(__file__).parents if (parent / FOLDER).is_dir())
MADE: dict[str, Any] = json.loads((KEPT / "made.json").read_text())
CLOSE = 1e-5
"""Allowed where torch or the processor is another; measured with two threads, and with AVX2 alone: 5e-7."""


def processor() -> str:
    """The first processor's name, family and model, as ``made.json`` has them; empty where Linux does not tell."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return ""
    told = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}
    return " ".join(told.get(key, "") for key in ("model name", "cpu family", "model"))


def same_machine() -> bool:
    """Whether sums are rounded here as they were where the files were made."""
    here = (torch.__version__, torch.backends.cpu.get_cpu_capability(), processor())
    return here == (MADE["torch"], MADE["capability"], MADE["processor"])


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A copy of the files: nothing writes into the repository."""
    return Path(shutil.copytree(KEPT, tmp_path / "kept"))


@pytest.fixture
def threads() -> Iterator[None]:
    """The threads of then."""
    before = torch.get_num_threads()
    torch.set_num_threads(MADE["threads"])
    yield
    torch.set_num_threads(before)


def ldm_run(*arguments: str, cwd: Path) -> str:
    """The output of a command, in a process with the threads of then."""
    ours = {"OMP_NUM_THREADS": str(MADE["threads"]), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    done = subprocess.run(
        [sys.executable, "-m", "ldm_core.cli", *arguments],
        cwd=cwd,
        env={**known, **ours},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", ["text", "layout", "plain"])
@pytest.mark.usefixtures("threads")
def test_a_model_samples_what_it_sampled(name: str, kept: Path) -> None:
    sampled = ldm_core.load(str(kept / name), device="cpu").sample(**MADE["requests"][name])
    then = load_arrays(kept / "samples.safetensors")
    latents = np.stack([s.latents for s in sampled if s.latents is not None])
    images = np.stack([s.image for s in sampled]).astype(int)
    off = np.abs(latents - then[f"{name}.latents"]).max()
    levels = np.abs(images - then[f"{name}.images"]).max()
    if same_machine() and name != "plain":  # attention without a context has another kernel since
        assert off == 0 and levels == 0
    else:
        print(f"{name}: latents within {off:.1e}, pictures within {levels} levels")
        assert off < CLOSE and levels <= 1


@pytest.mark.parametrize(
    "stage, folder, file",
    [
        ("first_stage", "stopped_first_stage", "first_stage.safetensors"),
        ("denoiser", "stopped_denoiser", "model.safetensors"),
    ],
)
def test_a_stopped_run_ends_as_its_twin(stage: str, folder: str, file: str, kept: Path) -> None:
    assert not (kept / folder / file).exists()
    ldm_run("train", "--recipe", "text.yaml", "--out", folder, "--until", stage, "--quiet", cwd=kept)
    ours, twin = load_file(kept / folder / file), load_file(kept / "text" / file)
    assert ours.keys() == twin.keys()
    off = max(float((ours[k].double() - twin[k].double()).abs().max()) for k in twin)
    if not same_machine():
        print(f"{folder}: weights within {off:.1e}")
    assert off == 0 if same_machine() else off < CLOSE


@pytest.mark.parametrize("name", ["text", "layout", "plain"])
def test_a_recipe_has_the_values_that_it_had(name: str, kept: Path) -> None:
    then = yaml.safe_load((kept / name / "recipe.yaml").read_text())
    now = yaml.safe_load(ldm_run("check", "--recipe", f"{name}.yaml", cwd=kept))
    assert list(changed(then, now)) == []
    again = yaml.safe_load(ldm_run("check", "--recipe", f"{name}/recipe.yaml", cwd=kept))
    assert again == now  # with every value written out, it is the same recipe


def changed(then: Any, now: Any, key: str = "") -> Iterator[str]:
    """Values of `then` that `now` lacks or has otherwise; keys that came since are left out."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in then:
            yield from changed(then[name], now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (old, new) in enumerate(zip(then, now, strict=True)):
            yield from changed(old, new, f"{key}[{number}]")
    elif then != now:
        yield f"{key}: {then!r} then, {now!r} now"
