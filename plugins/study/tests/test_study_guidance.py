"""``ldm-run study guidance``: its cells, the front, its files, and that it goes on."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from ldm_plugin_study.study.cells import Cell, Result, best_within, grid, scales_of, steps_of, with_front
from training_runs import VQ, go

from ldm_core.cli import main
from ldm_core.errors import ConfigError


def result(scale: float, quality: float, *seconds: float) -> Result:
    return Result(cell=Cell(sampler="ddim", steps=5, scale=scale), quality=quality, seconds=seconds, images=10)


def test_cells_are_all_combinations_once() -> None:
    cells = grid(["ddim", "euler"], [5, 10, 5], [1.0, 2.0], ["always", "0.3,5"])
    assert len(cells) == 2 * 2 * (1 + 2) and len({cell.name for cell in cells}) == 12  # scale 1 needs no interval
    last = cells[-1]
    assert last.settings == ["sampler=euler", "guidance.scale=2", "guidance.interval=[0.3,5]"]
    assert cells[0].settings[-1] == "guidance.interval=null"
    pasted = "ldm-run sample runs/a --sampler euler --steps 10 guidance.scale=2 'guidance.interval=[0.3,5]'"
    assert last.line("runs/a") == pasted
    always = "--sampler ddim --steps 5 guidance.scale=1 guidance.interval=null"
    assert cells[0].line("https://me:key@host/my run") == f"ldm-run sample 'https://host/my run' {always}"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: grid(["ddim"], [5], [1.0], ["3"]), "two noise levels"),
        (lambda: scales_of(["1,x"]), "'x' is no number"),
        (lambda: steps_of(["5,0"]), "0 is no number of steps"),
        (lambda: steps_of(["2.5"]), "2.5 is no number of steps"),
        (lambda: steps_of(["inf"]), "'inf' is no number; give whole numbers from 1, such as 5,10"),
        (lambda: steps_of(["5,nan"], "sample_steps"), "sample_steps: 'nan' is no number"),
        (lambda: steps_of([","], "sample_steps"), "sample_steps: none; give whole numbers from 1"),
        (lambda: scales_of([","]), "scales: none; give numbers"),
        (lambda: scales_of(["1,inf"]), "'inf' is no number"),
    ],
)
def test_what_is_no_cell_is_said(call: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()  # type: ignore[operator]


def test_the_front_and_the_best_for_a_time() -> None:
    slow, fast, bad, same = result(1, 2.0, 4.0), result(2, 5.0, 1.0, 1.0, 9.0), result(3, 6.0, 2.0), result(4, 2.0, 5.0)
    found = with_front([slow, bad, same, fast], higher=False)
    assert [(r.cell.scale, r.front) for r in found] == [(2, True), (3, False), (1, True), (4, False)]
    assert [r.cell.scale for r in with_front(found, higher=True) if r.front] == [2, 3]
    best = best_within(found, 3.0, higher=False)
    assert best is not None and best.cell.scale == 2 and best.time == 1.0
    assert best_within(found, 0.5, higher=False) is None
    assert best_within(found, 99, higher=False) == found[2] and best_within(found, 99, higher=True) == found[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "run"
    go(
        folder,
        first_stage=VQ,
        conditioners=[{"use": "class_label", "width": 8, "dropout": 0.2}],
        guidance={"use": "cfg", "scale": 2.0},
        stages=("first_stage", "latents", "denoiser"),
    )
    return folder


FAST = ("--metrics", "brightness", "--images", "8", "--batch", "2", "--rounds", "2", "--bootstrap", "3", "--json")


def test_a_study_goes_on_and_names_the_best(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache" / "weights"))
    call = ["study", "guidance", str(run), *FAST, "--sampler", "ddim", "--time", "1e-9", "--time", "1e9"]
    assert main([*call, "--scales", "1,3", "--steps", "2"]) == 0
    first = json.loads(capsys.readouterr().out)
    folder = run / "study-guidance"
    records = {p: p.stat().st_mtime_ns for p in folder.rglob("evaluation.json")}
    assert len(records) == 2 == len(first["cells"])
    assert first["best"][0]["cell"] is None and first["best"][1]["command"].startswith(f"ldm-run sample {run} ")

    assert main([*call, "--scales", "1,3", "--steps", "2,3"]) == 0
    said = capsys.readouterr()
    more = json.loads(said.out)
    assert "4 cells, 2 of them done before" in said.err
    assert all(p.stat().st_mtime_ns == when for p, when in records.items()) and len(more["cells"]) == 4
    kept = {c["name"]: c["quality"] for c in more["cells"]}
    assert all(kept[c["name"]] == c["quality"] for c in first["cells"])
    assert all(c["low"] <= c["high"] and len(c["seconds"]) == 2 for c in more["cells"])
    assert any(c["front"] for c in more["cells"]) and more["quality"]["floor"] >= 0
    assert "halves of the reference" in (folder / "guidance.md").read_text()
    with (folder / "guidance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["brightness"]) for r in rows] == [c["quality"] for c in more["cells"]]
    assert (folder / "guidance.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (folder / "guidance.svg").read_text()
    fastest = folder / "cells" / more["cells"][0]["name"] / "evaluation.json"
    assert more["protocol"] == json.loads(fastest.read_text())["line"]
    assert "up to 1e+15 us" not in (folder / "guidance.md").read_text()
    pasted = shlex.split(first["best"][1]["command"])[1:]
    assert main([*pasted, "--class", "0", "--out", str(tmp_path / "s")]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sampler", "dim"], "no sampler named 'dim'"),
        (["--scales", "a"], "'a' is no number"),
        (["--scales", ","], "scales: none"),
        (["--steps", "inf"], "'inf' is no number"),
        (["--value", "none"], "is no value of brightness"),
        (["--interval", "5,1"], "interval"),
    ],
)
def test_mistakes_are_lines(
    run: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache" / "weights"))
    one = ["--scales", "1", "--steps", "2", "--sampler", "ddim"]
    assert main(["study", "guidance", str(run), *FAST, *one, *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_metrics_are_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "guidance", str(run)]) == 2
    assert "--metrics" in capsys.readouterr().err


def test_a_run_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(tmp_path / "run", stages=("first_stage",))
    assert main(["study", "guidance", str(tmp_path / "run"), *FAST]) == 2
    assert "is not trained to its end" in capsys.readouterr().err
