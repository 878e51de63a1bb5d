"""Folders of tiny pictures, a tiny run and calls of the command, for the tests of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Command
from training_runs import VQ, go

from ldm_core.cli import main
from ldm_core.data import images


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for each test of a module that imports this."""
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache" / "weights"))


DENOISER = ("first_stage", "latents", "denoiser")


def pictures(folder: Path, count: int, *, size: int = 16, seed: int = 0, shift: int = 0) -> Path:
    """A folder of `count` grey-ish pictures, of a mean level of its own each."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        level = int(draw.integers(20, 150)) + shift
        picture = np.clip(draw.normal(level, 20, (3, size, size)), 0, 255).astype(np.uint8)
        (folder / f"{i:05d}.png").write_bytes(images.png_bytes(picture))
    return folder


def trained(folder: Path, **changes: Any) -> Path:
    """A run with a first stage and a denoiser of classes, trained for a few steps."""
    go(
        folder,
        first_stage=VQ,
        conditioners=[{"use": "class_label", "width": 8, "dropout": 0.2}],
        guidance={"use": "cfg", "scale": 2.0},
        stages=DENOISER,
        **changes,
    )
    return folder


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """The document that the command prints."""
    code = main(["evaluate", *map(str, arguments), "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The error of the command."""
    assert main(["evaluate", *map(str, arguments), "--quiet"]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err and not said.out
    return said.err


def apart(*arguments: Any) -> Command:
    """The command for a process of its own."""
    return Command(["ldm_core.cli", "evaluate", *map(str, arguments)])


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder by their relative paths."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
