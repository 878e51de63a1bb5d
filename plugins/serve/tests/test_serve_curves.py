"""The numbers of a run's `metrics.jsonl` as the page is told of them, whatever stands in the file."""

from __future__ import annotations

import json
from pathlib import Path

from ldm_plugin_serve.models.progress import curves
from ldm_plugin_serve.models.shelf import Entry


def test_values_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    rows = [
        {"stage": "denoiser", "step": 1, "loss": 0.5, "time": 7.0},
        {"stage": "denoiser", "step": 2, "loss": "low", "time": "noon"},
        {"stage": "denoiser", "step": 3, "loss": 0.25, "time": float("inf")},
        {"stage": 4, "step": 4, "loss": 0.1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "deno')
    told = curves(Entry(id="run", url=str(tmp_path)))
    assert told["time"] == 7.0 and told["stages"] == {"denoiser": {"loss": {"step": [1, 3], "value": [0.5, 0.25]}}}


def test_stages_come_as_they_began(tmp_path: Path) -> None:
    """The last one is in training; the alphabet would end with the first stage."""
    rows = [
        {"stage": "first_stage", "step": 9, "loss": 0.5, "time": 7.0},
        {"stage": "first_stage_evaluation", "step": 0, "psnr": 20.0, "time": 8.0},
        {"stage": "denoiser", "step": 1, "loss": 1.0, "time": 9.0},
        {"stage": "denoiser_validation", "step": 1, "val_loss": 1.0, "time": 9.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = curves(Entry(id="run", url=str(tmp_path)))
    assert list(told["stages"]) == ["first_stage", "first_stage_evaluation", "denoiser", "denoiser_validation"]
