"""``ldm-run compare``: one table, one plot, differences with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_runs import evaluated, pictures
from ldm_plugin_metrics.comparison import plot

from ldm_core.cli import main


@pytest.fixture
def three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Evaluations of two folders against one reference, and of one against another."""
    reference, other = pictures(tmp_path / "b", 60, seed=1), pictures(tmp_path / "c", 60, seed=2)
    folders = pictures(tmp_path / "near", 60), pictures(tmp_path / "far", 60, shift=60)
    end = ["--metrics", "brightness", "--bootstrap", 40, "--cache", tmp_path / "cache", "--out"]
    for folder in folders:
        evaluated(capsys, folder, "--against", reference, *end, tmp_path / f"e-{folder.name}")
    evaluated(capsys, folders[0], "--against", other, *end, tmp_path / "e-other")
    return [str(tmp_path / f"e-{name}") for name in ("near", "far", "other")]


def test_differences_have_intervals(three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "figures.svg"
    assert main(["compare", *three, "--plot", str(drawn), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["evaluations"] == ["e-near", "e-far", "e-other"]
    (figure,) = found["figures"]
    assert main(["compare", three[1], "--plot", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").stat().st_size > 5000
    capsys.readouterr()
    near, far, _ = figure["values"]
    none, difference, other = figure["differences"]
    assert none is None and difference["value"] == pytest.approx(far["value"] - near["value"])
    low, high = difference["interval"]
    assert 0 < low < difference["value"] < high and difference["apart"]
    assert other == {"incomparable": "the reference differs in fingerprint"}
    assert drawn.read_text().startswith("<?xml") and "e-far" in drawn.read_text()
    assert main(["compare", *three]) == 0
    said = capsys.readouterr().out
    assert "less e-near" in said and "not compared: brightness of e-other: the reference differs" in said
    assert main(["compare", three[0], three[0]]) == 0
    assert "+0 [+0, +0] (within chance)" in capsys.readouterr().out


def test_rate_and_distortion_are_one_panel_of_a_curve_each(tmp_path: Path) -> None:
    def figure(name: str, *values: float | None, metric: str = "bound") -> dict[str, Any]:
        plain = [None if value is None else {"value": value} for value in values]
        return {"metric": metric, "name": name, "label": name, "higher_is_better": False, "values": plain}

    figures = [figure("bound", 3.0, 2.0), figure("rate@9", 0.1, 0.2), figure("rmse@9", 80.0, 70.0)]
    figures += [figure("rate@1", 2.5, None), figure("rmse@1", 4.0, None), figure("rate@5", 1.0, 1.5)]
    curves = {"first": [(2.5, 4.0), (0.1, 80.0)], "second": [(0.2, 70.0)]}
    assert plot._curves(figures, ["first", "second"]) == curves
    other = [figure("rate@9", 0.3, metric="coarse"), figure("rmse@9", 90.0, metric="coarse")]
    assert plot._curves([*figures, *other], ["first", "second"])["first, coarse"] == [(0.3, 90.0)]
    plot.draw({"figures": figures, "evaluations": ["first", "second"]}, str(tmp_path / "curves.svg"))
    made = (tmp_path / "curves.svg").read_text()
    assert "bits per value" in made and "rate@" not in made and "bound (lower is better)" in made


def test_what_is_no_evaluation_is_refused(three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(["compare", *arguments]) == 2
        return capsys.readouterr().err

    assert "give two evaluations" in said(three[0])
    assert "holds no evaluation.json" in said(three[0], str(tmp_path / "b"))
    assert "a plot ends in .png" in said(*three, "--plot", "figures.txt")
    record = Path(three[0]) / "evaluation.json"
    found = json.loads(record.read_text())
    bad: list[Any] = [[], {**found, "kind": "x"}, {**found, "metrics": [1]}, {**found, "sets": {"a": 1}}]
    for wrong in [*bad, {**found, "format": 9}]:
        record.write_text(json.dumps(wrong))
        assert "evaluation.json: " in said(*three)
    found["metrics"][0]["values"]["brightness"]["draws"] = ["x"]
    record.write_text(json.dumps(found))
    assert "is no record" in said(*three)
