"""`ldm-run report` and the observer: files, comparisons, mistakes, and a run that reports on itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import written_runs
from ldm_plugin_report import events
from ldm_plugin_report.events import Diary
from training_runs import Watch, go

from ldm_core import storage
from ldm_core.cli import main
from ldm_core.errors import Interrupted


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(written_runs.write(str(tmp_path / "demo")))


def test_a_report_lies_in_its_run_and_overwrites_reports_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    out, err = capsys.readouterr()
    size = (run / "report.html").stat().st_size
    assert out == f"{run}/report.html ({size / 1e6:.2f} MB)\n" and not err
    assert main(["report", str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file"] == f"{run}/report.html" and document["missing"] == {"demo": []}
    (run / "report.html").write_text("mine")
    assert main(["report", str(run)]) == 2
    assert "is no report; move it away" in capsys.readouterr().err and (run / "report.html").read_text() == "mine"
    assert main(["report", str(run), "--force"]) == 0
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_mistakes_are_lines(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        ([], "Missing argument 'RUN...'"),
        ([tmp_path / "none"], "is no run's folder"),
        ([run, "--out", tmp_path], "is a folder"),
        ([run, "--evaluation", tmp_path], "cannot read"),
        ([run, run, "--evaluation", tmp_path], "belongs to the report of one run"),
        (["http://127.0.0.1:9/run"], "nothing can be written there"),
    ):
        assert main(["report", *map(str, arguments)]) == 2
        err = capsys.readouterr().err
        assert said in err and "Traceback" not in err, err


def test_figures_with_their_protocol(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        "kind": "evaluation",
        "line": "FD 12.3 of 500 samples",
        "metrics": [
            {"metric": "fd", "source": "a network", "of": "samples", "pictures": 500, "against": "reference",
             "against_pictures": 2000, "values": {"fd": {"value": 12.3, "interval": [11, 13], "floor": 2.5}}}
        ],
    }  # fmt: skip
    place = run / "evaluations" / "fd" / "evaluation.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(found))
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    for said in (
        "FD 12.3 of 500 samples",
        "12.3 [11, 13]",
        "500 samples against 2000 reference pictures",
        "halves of these: 2.5",
    ):
        assert said in page, said


def test_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = written_runs.write("a/demo", prompts=["a cat", "a dog"])
    recipe = written_runs.resolved(seed=3)
    second = written_runs.write("b/demo", recipe=recipe, prompts=["a cat", "a bird"])
    third = written_runs.write("c", recipe=recipe, prompts=["a cat"], measured=[])
    assert main(["report", first, second, third]) == 0
    page = (tmp_path / "comparison.html").read_text()
    assert page.index('id="differences"') < page.index('id="curves"') < page.index('id="samples"')
    assert "<code>seed</code>" in page and "demo (2)" in page and "Same input and same seed." in page
    rows = page.partition('id="samples"')[2]
    assert rows.count('class="row"') == 1 and "a cat" in rows and "a bird" not in rows
    charts = json.loads(page.partition('id="charts">')[2].partition("</script>")[0])
    assert [line["label"] for line in charts[0]["lines"]] == ["demo (1)", "demo (2)"]
    assert main(["report", first, first, "--out", "same.html"]) == 0
    assert "The recipes are equal." in (tmp_path / "same.html").read_text()


def test_a_run_reports_on_itself(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    plain = go(tmp_path / "plain")
    told = go(out, "trainer.preview_every=4", observers=["report"])
    assert told.losses == plain.losses
    assert (out / "model.safetensors").stat().st_size == (tmp_path / "plain" / "model.safetensors").stat().st_size
    page = (out / "report.html").read_text()
    assert ">finished<" in page and "step 8" in page and "Messages of this run were not kept" not in page
    diary = events.read(str(out))
    assert diary.ended == "done" and diary.starts == 1 and {"denoiser", "samples"} <= set(diary.seconds)
    assert "torch" in diary.machine and "cores" in diary.machine


def test_a_run_that_is_stopped_reports_too(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with pytest.raises(Interrupted):
        go(out, observers=["report"], watch=Watch(stop=("denoiser", 3)))
    assert ">interrupted<" in (out / "report.html").read_text()
    go(out, observers=["report"])
    assert ">finished<" in (out / "report.html").read_text() and events.read(str(out)).starts == 2


def test_a_diary_survives_kills_and_repeats(tmp_path: Path) -> None:
    for url in (str(tmp_path), "memory://diary/run"):
        diary = Diary(url)
        diary.write("start", machine={"cores": 2})
        diary.write("stage", stage="denoiser")
        for _ in range(3):
            diary.write("message", text="take care", level="warning")
        diary.write("message", text="all well", level="info", now=True)
        again = Diary(url)
        again.write("start", now=True)
        again.write("stage", stage="denoiser")
        again.write("stage_end", stage="denoiser", status="done")
        again.write("end", status="done", now=True)
        found = events.read(url)
        assert found.starts == 2 and found.ended == "done" and found.machine == {"cores": 2}
        assert [(m.text, m.times) for m in found.warnings] == [("take care", 3)] and len(found.messages) == 2
        assert 0 <= found.seconds["denoiser"] < 60
    assert not events.read(storage.join(str(tmp_path), "none")).there
