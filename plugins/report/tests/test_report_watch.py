"""Measurements read again and again, states of runs, and `ldm-run watch`, on disks and in object storage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import written_runs
from ldm_plugin_report.curves import Measurements, plain, stages, thinned
from ldm_plugin_report.pace import paces
from ldm_plugin_report.run import read
from ldm_plugin_report.terminal import sparkline, view
from ldm_plugin_report.watch import WatchOptions, follow

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.errors import StorageError
from ldm_core.training.folder.state import FINISHED, KILLED, NOTHING, PATIENCE, RUNS, STOPPED, Watch, state_of

CATALOG = Catalog.discover()


def put(url: str, name: str, text: str) -> None:
    storage.atomic_write(storage.join(url, name), text)


def lock(url: str, beat: float | None = None, **more: Any) -> None:
    put(
        url,
        "lock",
        json.dumps({"beat": time.time() if beat is None else beat, "since": 5.0, "pid": 1, "host": "x", **more}),
    )


def lines(*found: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in found)


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A run without weights that trains."""
    url = str(tmp_path / "demo") if request.param == "disk" else "memory://watched/demo"
    written_runs.write(url, previews=[100])
    for name in ("model.safetensors", "samples.png"):
        storage.remove(storage.join(url, name))
    lock(url)
    yield url
    if request.param == "memory":
        fs, inner = storage.filesystem("memory://watched")
        fs.rm(inner, recursive=True)


def row(step: int, stage: str = "denoiser", **more: Any) -> dict[str, Any]:
    return {"stage": stage, "step": step, "loss": 1 / step, "time": 1000.0 + step, **more}


def test_only_what_is_new_is_read(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real: Callable[..., bytes] = storage.read_bytes

    def counted(url: str, start: int | None = None, stop: int | None = None, *, most: int | None = None) -> bytes:
        data = real(url, start, stop, most=most)
        asked.append(len(data))
        return data

    first, more = lines(*map(row, range(1, 50))), lines(row(50), row(51))
    put(place, "metrics.jsonl", first + '{"half')
    found = Measurements(place)
    monkeypatch.setattr(storage, "read_bytes", counted)
    assert found.update() and [r["step"] for r in found.rows] == list(range(1, 50)) and {found.damaged} == {0}
    assert not found.update() or storage.local_path(place) is None
    put(place, "metrics.jsonl", first + '{"half": 1}\n' + more)
    asked.clear()
    assert found.update() and [r["step"] for r in found.rows][-2:] == [50, 51] and found.damaged == 1
    assert sum(asked) < 400 < len(first)
    put(place, "metrics.jsonl", lines(row(7)) + more)  # written anew by a resumed run
    assert found.update() and [r["step"] for r in found.rows] == [7, 50, 51]
    storage.remove(storage.join(place, "metrics.jsonl"))
    assert found.update() and not found.rows and not found.there


def test_rows_become_panels_of_lines() -> None:
    rows = [*written_runs.rows(), {"stage": "denoiser_metrics", "step": 200, "fd": 3.0}]
    first, second = stages(rows)
    assert (first.name, second.name, second.step) == ("first_stage", "denoiser", 200)
    panels = {panel.name: [line.label for line in panel.lines] for panel in second.panels}
    assert panels["loss"] == ["training", "held out"] and panels["fd"] == ["samples"]
    assert panels["loss by diffusion time"] == [f"t{i}" for i in range(10)]
    json.dumps(plain([first, second]), allow_nan=False)
    many = [(i, float(i == 5000)) for i in range(10_000)]
    few = thinned(many, 100)
    assert len(few) <= 102 and (5000, 1.0) in few and few[0] == many[0] and few[-1] == many[-1]


def test_progress_and_the_time_left() -> None:
    (pace,) = [p for p in paces(written_runs.rows(), {"trainer": {"steps": 400}}) if p.stage.name == "denoiser"]
    assert (pace.steps, pace.share) == (400, 0.5) and [pace.rate, pace.left] == pytest.approx([1.0, 200.0])
    assert pace.last("loss", "held out") == 0.4 and pace.last("nothing") is None
    assert sparkline([(1, 1.0), (2, 2.0), (3, 3.0)], 8) == "▁▅█" and sparkline([], 8) == ""
    assert sparkline([(i, 1.0) for i in range(99)], 8, plain=True) == "=" * 8


def test_states(place: str, tmp_path: Path) -> None:
    clock = [0.0]
    watch = Watch(place, clock=lambda: clock[0])
    assert watch.look().state == RUNS and watch.look().since == 5.0
    clock[0] += PATIENCE + 1
    assert watch.look().state == KILLED, "its beat stands still"
    lock(place, beat=time.time() + 1)
    assert watch.look().state == RUNS
    lock(place, beat=time.time() - 10_000)
    assert state_of(place) == KILLED
    put(place, "lock", "half of a lo")
    assert state_of(place) == RUNS
    storage.remove(storage.join(place, "lock"))
    assert state_of(place) == STOPPED and state_of(str(tmp_path / "nothing")) == NOTHING
    put(place, "model.safetensors", "x")
    assert state_of(place) == FINISHED


def test_watch_follows_a_run_to_its_end(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, looks = tmp_path / "page.html", []

    def sleep(seconds: float) -> None:
        looks.append(page.read_text())
        if len(looks) == 1:
            put(place, "metrics.jsonl", lines(*written_runs.rows(), row(300, images_per_second=5.0)))
            lock(place)
        else:
            storage.remove(storage.join(place, "lock"))

    follow(WatchOptions(run=place, html=str(page), every=7.0), CATALOG, sleep=sleep)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("denoiser 200/8 (100%), loss 0.408") and said[1].startswith("denoiser 300/8")
    assert said[-2] == "demo: stopped" and said[-1] == str(page)
    assert len(looks) == 2 and 'http-equiv="refresh" content="7"' in looks[0] and ">training<" in looks[0]
    assert "refresh" not in page.read_text() and ">stopped<" in page.read_text()


def test_a_storage_without_an_answer_is_asked_again(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing: list[bool] = []

    def sleep(seconds: float) -> None:
        failing.append(len(failing) < 2)
        if len(failing) > 2:
            storage.remove(storage.join(place, "lock"))

    real = Watch.look

    def look(self: Watch) -> Any:
        if failing and failing[-1]:
            raise StorageError("no answer")
        return real(self)

    monkeypatch.setattr(Watch, "look", look)
    follow(WatchOptions(run=place), CATALOG, sleep=sleep)
    said = capsys.readouterr().out
    assert "no answer; asked again in 5 s" in said and said.endswith("demo: stopped\n")


def test_the_view_of_a_terminal(place: str) -> None:
    from io import StringIO

    from rich.console import Console

    put(
        place,
        "report.jsonl",
        lines({"kind": "message", "level": "warning", "text": "[red]\x1b[31mtake care", "time": 1.0}),
    )
    facts = attrs.evolve(read(place), name="[bold]demo")
    found = paces(facts.rows, {"trainer": {"steps": 400}})
    for encoding, wide in (("utf-8", 100), ("ascii", 50)):
        stream = type("Stream", (StringIO,), {"encoding": encoding})()
        console = Console(file=stream, width=wide, force_terminal=True, color_system="truecolor", markup=False)
        console.print(view(facts, found, console, "no answer"))
        text = stream.getvalue()
        assert "[bold]demo" in text and "[red]\\x1b[31mtake care" in text and "no answer" in text
        assert "200/400 (50%)" in text and ("▀" in text) == (encoding == "utf-8") and "held out" in text


_HEARS_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_ctrl_c_ends_it_and_leaves_the_run(tmp_path: Path) -> None:
    url = written_runs.write(str(tmp_path / "demo"))
    lock(url, host="elsewhere")
    before = sorted(p.name for p in Path(url).iterdir())
    # a shell's background jobs, and with them a CI that is one, begin with the signal ignored
    words = [sys.executable, "-c", _HEARS_CTRL_C, "-m", "ldm_core.cli", "watch", url, "--every", "0.5"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("denoiser 200")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err and "Traceback" not in out
    assert sorted(p.name for p in Path(url).iterdir()) == before


def test_reports_and_watches_work_in_s3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from s3_server import SECRET, s3_bucket

    with s3_bucket("reports") as bucket:
        url = written_runs.write(f"{bucket}/runs/demo")
        assert main(["report", url]) == 0
        page = storage.read_text(f"{url}/report.html")
        assert "a red circle" in page and SECRET not in page and ">finished<" in page
        lock(url)
        assert main(["watch", url, "--once", "--html", str(tmp_path / "demo.html")]) == 0
        assert "denoiser 200/8" in capsys.readouterr().out and ">training<" in (tmp_path / "demo.html").read_text()
        assert main(["report", f"{bucket}/runs/none"]) == 2
        assert "is no run's folder" in capsys.readouterr().err
