"""``ldm-run study tradeoff``: its cells, equal denoisers, its files, and that it goes on after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ldm_plugin_study.study import quality
from ldm_plugin_study.tradeoff import parallel, work
from ldm_plugin_study.tradeoff.parameters import SPREAD, fitted
from ldm_plugin_study.tradeoff.plan import Plan, cells_of, recipe_of, shares_of, stages_of
from training_runs import TINY

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.config import documents
from ldm_core.errors import ConfigError
from ldm_core.recipe.resolve import resolve

STAGE = ("first_stage.channels=8", "first_stage.norm_groups=4", "first_stage.res_blocks=1")


@pytest.mark.parametrize(
    "cell", ["f1", "kl_f32", *(pytest.param(c, marks=pytest.mark.slow) for c in ("kl_f4", "vq_f8"))]
)
def test_denoisers_have_equal_parameters_at_every_factor(cell: str) -> None:
    catalog, wanted = Catalog.discover(), 1_000_000
    plan = Plan(folder="none", cells=(cell,), settings=("image_size=64",))
    found = fitted(resolve(recipe_of(plan, cell, catalog), catalog), wanted, catalog)
    assert abs(found.count - wanted) <= SPREAD * wanted


def test_a_twin_without_attention_is_another_stage_at_the_small_scale_too() -> None:
    catalog, cells = Catalog.discover(), ("vq_f4", "vq_f4_noattn")
    plan = Plan(folder="none", cells=cells)
    found = [resolve(recipe_of(plan, cell, catalog), catalog).first_stage.config.mid_attention for cell in cells]
    assert found == [True, False]


def test_a_number_that_no_denoiser_has_is_said() -> None:
    catalog = Catalog.discover()
    recipe = resolve({**TINY, "denoiser": {**TINY["denoiser"], "channel_mult": [1], "attention": []}}, catalog)
    with pytest.raises(ConfigError, match=r"has 10 of them, within 1.5%; the nearest has"):
        fitted(recipe, 10, catalog)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cells_of("f1,kl_f44", {}, Catalog.discover()), "no first stage named 'kl_f44'"),
        (lambda: cells_of("f1", {"kl_f4": "runs/a"}, Catalog.discover()), "'kl_f4' is none of the cells"),
        (lambda: cells_of(",", {}, Catalog.discover()), "cells: none"),
        (lambda: stages_of(["runs/a"]), "expected CELL=RUN"),
        (lambda: shares_of("0.5,2"), "above 0 and up to 1"),
        (lambda: parallel.environment("gpu:1", 1), "expected cpu, cuda"),
    ],
)
def test_mistakes_are_said(call: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()


def test_a_process_sees_its_own_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert parallel.environment("cuda:1", 2)["CUDA_VISIBLE_DEVICES"] == "6"
    assert parallel.environment("cpu", 2)["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(ConfigError, match="2 are visible here"):
        parallel.environment("cuda:2", 2)


def test_a_mistake_in_a_process_is_told_with_its_cell(tmp_path: Path) -> None:
    plan = Plan(folder=str(tmp_path), cells=("kl_f4",), recipe="nowhere/none.yaml", steps=1)
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"kl_f4: .*none\.yaml"):
        parallel.run([work.Job(plan=plan, cell="kl_f4", denoiser={"use": "unet"})], ["cpu"], said.append)
    assert said == ["kl_f4: begins on cpu"]


def test_minutes_are_counted_in_steps_by_the_measured_pace(tmp_path: Path) -> None:
    plan = Plan(folder=str(tmp_path), cells=("f1",), minutes=1.0, times=(0.1, 0.5, 1.0))
    assert work.marks(plan, "f1") == []
    place = tmp_path / "cells" / "f1" / work.PACE
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"seconds": 0.5, "calibration": 0.5, "calibrated": 16}))
    assert work.marks(plan, "f1") == [16, 60, 120]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a study of two cells on the tiniest recipe."""
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache" / "weights"))
    recipe = tmp_path / "tiny.yaml"
    plain = {**TINY, "first_stage_trainer": {**TINY["first_stage_trainer"], "adversarial_start": 99}}
    recipe.write_text(documents.dump_yaml(plain))
    measure = ("--metrics", "brightness", "--images", "8", "--batch", "2", "--rounds", "1")
    budget = ("--steps", "4", "--stage-steps", "2", "--times", "0.5,1", "--sample-steps", "1,2")
    return ["study", "tradeoff", "--recipe", str(recipe), "--cells", "f1,kl_f2", *measure, *budget, "--json", *STAGE]


def test_a_study_goes_on_after_kills_and_writes_its_files(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    call = [*call, "--out", str(folder)]
    own_watch, own_evaluate = work.Watch.__call__, quality.evaluate

    def killed(self: work.Watch, progress: ldm_core.TrainingProgress) -> bool:
        if progress.stage == "denoiser" and progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return own_watch(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(work.Watch, "__call__", killed)
        assert main(call) == 130
    assert [p.name for p in (folder / "cells" / "f1" / "marks").iterdir()] == ["2"]

    def broken(question: Any, cell: Any, where: str) -> None:
        if "kl_f2" in where:
            raise KeyboardInterrupt
        own_evaluate(question, cell, where)

    with monkeypatch.context() as patch:
        patch.setattr(quality, "evaluate", broken)
        assert main(call) == 130
    records = {p: p.stat().st_mtime_ns for p in folder.rglob("evaluation.json")}
    models = {p: p.stat().st_mtime_ns for p in folder.rglob("model.safetensors")}
    assert len(records) == 4 and len(models) == 2 * 3
    capsys.readouterr()

    assert main(call) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "left (first stage" in said.err and "in all, 1 at once" in said.err
    assert all(p.stat().st_mtime_ns == when for p, when in (records | models).items())
    first, second = found["cells"]
    assert (first["name"], first["factor"], second["name"], second["factor"]) == ("f1", 1, "kl_f2", 2)
    assert abs(first["parameters"] - second["parameters"]) <= 0.03 * first["parameters"]
    assert first["reconstruction"] == {} and second["reconstruction"]["psnr"] > 0
    for cell in found["cells"]:
        assert [(p["trained"], p["steps"]) for p in cell["points"]] == [(2, 1), (2, 2), (4, 1), (4, 2)]
        assert all(p["images_per_second"] > 0 and p["minutes"] > 0 and p["quality"] >= 0 for p in cell["points"])
    with (folder / "tradeoff.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["brightness"]) for r in rows] == [p["quality"] for c in found["cells"] for p in c["points"]]
    assert "best samples" in (folder / "tradeoff.md").read_text()
    assert json.loads((folder / "tradeoff.json").read_text())["best"] in ("f1", "kl_f2")
    assert (folder / "tradeoff.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (folder / "tradeoff.svg").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "brightnes"], "brightnes"),
        (["--metrics", "fd"], "fd"),
        (["--metrics", "fd", "fd.network=pixels"], "pictures; give as many"),
        (["--first-stage", "f1=runs/a"], "f1 is the cell without one"),
        (["trainer.steps=5"], "trainer.steps: is set by the study itself; give --steps or --minutes"),
        (["--sample-steps", ","], "sample_steps: none; give whole numbers from 1, such as 5,10"),
        (["--sample-steps", ""], "sample_steps: none"),
        (["--sample-steps", "5,inf"], "sample_steps: 'inf' is no number"),
        (["--devices", "cpu,gpu:1"], "devices: 'gpu:1': expected cpu, cuda"),
        (["kid.subsets=5"], "kid: unknown key"),
        (["--minutes", "1"], "give one of them"),
        (["--first-stage", "kl_f2=/nowhere/run"], "/nowhere/run"),
        (["--against", "/nowhere/photos"], "/nowhere/photos"),
        (["--against", "/nowhere/statistics.npz"], "/nowhere/statistics.npz"),
    ],
)
def test_mistakes_of_a_call_are_lines(
    call: list[str], words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*call, *words, "--out", str(tmp_path / "study")]) == 2
    assert said in capsys.readouterr().err


def test_efficiency_is_a_table_after_equal_epochs(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    words = ["study", "efficiency", *call[2:4], "--cells", "kl_f2", "--epochs", "0.5", "--stage-steps", "2"]
    words += ["--sample-steps", "1", "--metrics", "brightness", "--images", "8", "--batch", "2", "--rounds", "1"]
    assert main([*words, "--json", *STAGE, "--out", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    (cell,) = found["cells"]
    assert [point["trained"] for point in cell["points"]] == [3]  # half of 24 examples, 4 a step
    assert cell["training_images_per_second"] > 0 and cell["points"][0]["images_per_second"] > 0
    assert cell["decode_bytes"] is None or cell["decode_bytes"] >= 0
    with (folder / "efficiency.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["brightness"]) == cell["points"][0]["quality"] and float(row["psnr"]) > 0
    assert "0.5 epochs" in (folder / "efficiency.md").read_text()
    assert (folder / "efficiency.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (folder / "efficiency.svg").read_text()
    assert json.loads((folder / "efficiency.json").read_text())["epochs"] == 0.5
