"""The curves drawn from a run's rows, and a run that draws them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install ldm-plugin-curves)")

from ldm_plugin_curves import draw
from PIL import Image
from training_runs import go

from ldm_core.training.folder.own_files import OwnFiles


def _run_of(stage: str) -> list[dict[str, Any]]:
    """Rows as the trainers write them."""
    rows: list[dict[str, Any]] = []
    for step in range(50, 2001, 50):
        row: dict[str, Any] = {"stage": stage, "step": step, "loss": 2.0 * step**-0.3, "lr": 1e-4 * min(1, step / 500),
                               "grad_norm": 3.0 * step**-0.2, "images_per_second": 400.0 + step % 30,
                               "data_wait": 0.02, "peak_memory_mib": 900.0}  # fmt: skip
        if stage == "first_stage":
            row |= {"pixel": 0.5 / step, "real_accuracy": 0.9, "codebook_used": 0.5, "adaptive_weight": 1e3 / step}
            row |= {f"kl_{c}": 1.0 + c + 1 / step for c in range(4)}
        rows.append(row)
        if step % 200 == 0:
            bins = {f"val_loss_t{i}": (10 - i) * step**-0.3 for i in range(10)}
            more = {"val_loss": 2.2 * step**-0.3, **bins} if stage == "denoiser" else {"psnr": 20 + step / 200}
            rows.append({"stage": f"{stage}_validation", "step": step, **more})
    return rows


@pytest.mark.parametrize("stage, drawn", [("denoiser", 2), ("first_stage", 1)])
def test_curves_hold_every_number(stage: str, drawn: int) -> None:
    rows = _run_of(stage)
    panels = draw._panels([r for r in rows if r["stage"] == stage], [r for r in rows if r["stage"] != stage])
    if stage == "denoiser":
        assert list(panels) == ["loss", "grad_norm", "lr", "images_per_second", "data_wait", "peak_memory_mib"]
        assert list(panels["loss"]) == ["training", "validation"]
        assert panels["loss"]["validation"][-1] == (2000, pytest.approx(2.2 * 2000**-0.3))
    else:
        assert list(panels)[:4] == ["loss", "psnr", "pixel", "real_accuracy"]
        assert list(panels["kl by channel"]) == ["kl_0", "kl_1", "kl_2", "kl_3"]
        assert list(panels["psnr"]) == ["validation"]
    made = draw.pictures(rows, stage)
    assert list(made) == ["loss", "validation"][:drawn]
    for data in made.values():
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert picture.shape[1] == 990 and (picture != 255).any()


def test_metrics_of_samples_have_panels() -> None:
    rows = _run_of("denoiser")
    rows += [{"stage": "denoiser_metrics", "step": step, "fd": 9.0 - step / 500} for step in (1000, 2000)]
    panels = draw._panels(rows[:1], [], rows[-2:])
    assert panels["fd"] == {"samples": [(1000, 7.0), (2000, 5.0)]}
    assert draw.draw_curves(rows, "denoiser") != draw.draw_curves(rows[:-2], "denoiser")


def test_one_measurement_by_bins_has_no_empty_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"stage": "denoiser_validation", "step": 10, **{f"val_loss_t{i}": 0.9 - 0.05 * i for i in range(5)}}
    panels: list[int] = []
    figure = draw._figure

    def noted(count: int, columns: int) -> Any:
        panels.append(count)
        return figure(count, columns)

    monkeypatch.setattr(draw, "_figure", noted)
    assert draw.draw_bins([one], "denoiser") and draw.draw_bins([one, {**one, "step": 20}], "denoiser")
    assert panels == [1, 2]


def test_nothing_is_drawn_from_nothing() -> None:
    row = {"stage": "denoiser", "step": 1, "loss": 1.0}
    assert draw.pictures([], "denoiser") == draw.pictures([row], "denoiser") == {}
    assert draw.pictures([row, {**row, "step": 2}], "first_stage") == {}


def test_numbers_that_are_not_finite_are_gaps() -> None:
    row = {"stage": "denoiser", "step": 1, "loss": None, "grad_norm": None, "lr": 0.5}
    assert draw.draw_curves([row, {**row, "step": 2}], "denoiser") is not None


def test_a_run_draws_curves_where_its_recipe_says_so(tmp_path: Path) -> None:
    silent = go(tmp_path / "without")
    drawn = go(tmp_path / "with", observers=["curves"])
    assert drawn.losses == silent.losses
    assert [p.name for p in (tmp_path / "without").glob("*_loss.png")] == []
    picture = np.asarray(Image.open(tmp_path / "with" / "denoiser_loss.png"))
    assert picture.shape[1] == 990
    assert OwnFiles.read(str(tmp_path / "with")).owns("denoiser_loss.png")
    assert "denoiser_loss.png" in drawn.pictures and not silent.pictures & {"denoiser_loss.png"}
