"""metrics.jsonl: its lines through kills and resumes, on storage that cannot append."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ldm_core import storage
from ldm_core.errors import StorageError
from ldm_core.training.folder import metrics
from ldm_core.training.folder.metrics import MetricsFile, read_rows, rows_of, summarize


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _lines(*rows: tuple[str, int, float]) -> list[str]:
    return [json.dumps({"stage": stage, "step": step, "loss": loss}) for stage, step, loss in rows]


def test_lines_survive_a_kill_and_a_resume(tmp_path: Path) -> None:
    url = str(tmp_path / "metrics.jsonl")
    first = MetricsFile(url)
    for step in (1, 2, 3):
        first.write(stage="denoiser", step=step, loss=1.0 / step)
    first.flush()
    with Path(url).open("a") as file:
        file.write('{"stage": "denoiser", "st')  # killed while it wrote
    second = MetricsFile(url)
    second.write(stage="denoiser", step=3, loss=0.25)
    second.write(stage="denoiser", step=4, loss=0.125)
    rows = second.read()
    assert [(r["step"], r["loss"]) for r in rows] == [(1, 1.0), (2, 0.5), (3, 0.25), (4, 0.125)]
    assert MetricsFile(url).read() == rows
    assert len(Path(url).read_text().splitlines()) == 6, "the half line stands by itself and harms no other"


def test_after_a_resume_the_later_lines_count() -> None:
    """Also where the second time logs at other steps: what the first time said of them is gone with its weights."""
    lines = _lines(("a", 10, 1.0), ("a", 20, 2.0), ("b", 20, 7.0), ("a", 30, 3.0), ("a", 15, 1.5), ("a", 25, 2.5))
    assert [(r["stage"], r["step"], r["loss"]) for r in rows_of(lines)] == [
        ("a", 10, 1.0), ("a", 15, 1.5), ("a", 25, 2.5), ("b", 20, 7.0)
    ]  # fmt: skip
    assert rows_of(["", "[]", "{}", '{"stage": "a", "step": null}', '"x"']) == []


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    """NaN is no JSON: strict readers refuse the whole line."""
    url = str(tmp_path / "metrics.jsonl")
    file = MetricsFile(url)
    file.write(stage="denoiser", step=1, loss=float("nan"), grad_norm=float("inf"), lr=0.5)
    file.flush()

    def refuse(word: str) -> float:
        raise AssertionError(word)

    row = json.loads(Path(url).read_text(), parse_constant=refuse)
    assert (row["loss"], row["grad_norm"], row["lr"]) == (None, None, 0.5)


def test_another_process_than_the_first_writes_nothing(tmp_path: Path) -> None:
    file = MetricsFile(str(tmp_path / "metrics.jsonl"), active=False)
    file.write(stage="denoiser", step=1, loss=1.0)
    file.flush()
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_append_is_written_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """200,000 steps logged every 50 at 10 steps/s, each write as slow as its bytes: at most 2 % of the time goes into
    writing, and every line is there in the end."""
    url, clock = "memory://metrics-seldom/metrics.jsonl", _Clock()
    storage.atomic_write(url, '{"stage": "denoiser", "step": 1, "loss": 9.0}\n{"half')
    spent: list[float] = []
    put = storage.atomic_write

    def slow(where: Any, data: Any) -> None:
        took = 0.2 + len(data) / 20e6  # a put over a line of 20 MB/s
        clock.now += took
        spent.append(took)
        put(where, data)

    monkeypatch.setattr(storage, "atomic_write", slow)
    file = MetricsFile(url, clock=clock)
    for step in range(50, 200_001, 50):
        clock.now += 5.0
        file.write(stage="denoiser", step=step, loss=1.0 / step, grad_norm=1.0, lr=1e-4, images_per_second=123.456)
    file.flush()
    assert sum(spent) / clock.now < 0.021
    assert len(spent) > 100, "and yet a watcher need not wait for long"
    monkeypatch.undo()
    rows = MetricsFile(url).read()
    assert [r["step"] for r in rows] == [1, *range(50, 200_001, 50)]


def test_a_refused_write_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    url, clock = "memory://metrics-refused/metrics.jsonl", _Clock()
    file = MetricsFile(url, clock=clock)

    def refuse(where: Any, data: Any) -> None:
        raise StorageError("cannot write")

    monkeypatch.setattr(storage, "atomic_write", refuse)
    for step in (1, 2, 3):
        clock.now += 60.0
        file.write(stage="denoiser", step=step, loss=1.0)
    file.flush()
    with pytest.raises(StorageError):
        file.close()
    monkeypatch.undo()
    assert [r["step"] for r in file.read()] == [1, 2, 3]


def test_the_summary_of_a_stage() -> None:
    rows: list[dict[str, Any]] = [
        {"stage": "denoiser", "step": 10 * i, "loss": 1 / i, "images_per_second": speed, "data_wait": 0.1 * i,
         "peak_memory_mib": 100.0 * (4 - i)} for i, speed in ((1, 3.0), (2, 100.0), (3, 110.0))
    ]  # fmt: skip
    rows += [
        {"stage": "denoiser_validation", "step": 20, "val_loss": 0.5, "val_loss_t0": 0.25, "time": 1.0},
        {"stage": "denoiser_validation", "step": 30, "val_loss": 0.375, "val_loss_t0": 0.25, "time": 2.0},
        {"stage": "denoiser_metrics", "step": 30, "recall_10": 0.75},
        {"stage": "first_stage_evaluation", "step": 0, "psnr": 30.0},
    ]
    assert summarize(rows) == {
        "denoiser": {"step": 30.0, "loss": pytest.approx(1 / 3), "images_per_second": 100.0,
                     "data_wait": pytest.approx(0.2), "peak_memory_mib": 300.0, "validation_loss": 0.375,
                     "metrics_recall_10": 0.75}
    }  # fmt: skip


def test_it_imports_no_torch() -> None:
    """The command line reads it to sum a run up."""
    assert not any(name.startswith("torch") for name in vars(metrics))


def test_lines_that_do_not_read_are_none(tmp_path: Path) -> None:
    """Whatever stands between the rows, the run that ends there is not lost."""
    path = tmp_path / "metrics.jsonl"
    good = [{"stage": "denoiser", "step": n, "loss": 1.0} for n in (1, 2)]
    odd = [
        b"\xff\xfe",
        b"[" * 5000,
        b"[1]",
        b'{"stage": [], "step": 1}',
        b'{"stage": "denoiser", "step": Infinity}',
        b'{"stage": "denoiser", "step": "2"}',
        b'{"stage": "denoi',
        b"9" * 5000,
        b"",
    ]
    path.write_bytes(b"\n".join([json.dumps(good[0]).encode(), *odd, json.dumps(good[1]).encode(), b""]))
    assert read_rows(str(path)) == good


ROW = b'{"stage": "a", "step": 1}\n'


@pytest.mark.parametrize(
    "data, healed, told",
    [
        (ROW, ROW, ""),
        (b"", b"", ""),
        (ROW + ROW[:9], ROW, "half a line at its end was taken off"),
        (ROW[:9], b"", "half a line at its end"),
        (ROW + ROW[:-1], ROW + ROW, ""),
        (ROW + b"\0" * 50, ROW, "half a line at its end"),
        (ROW + b"\xff\xfe\n" + ROW, ROW + b"\xff\xfe\n" + ROW, "1 of 3 lines are damaged and are passed over"),
        (ROW + b"[1]\n\n" + ROW + b"{", ROW + b"[1]\n\n" + ROW, "; 1 of 4 lines are damaged"),
        (b"\xef\xbb\xbf" + ROW, b"\xef\xbb\xbf" + ROW, ""),
        (b"\xff" * 10, b"", "half a line"),
    ],
)
@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_damaged_file_is_healed_and_said(tmp_path: Path, data: bytes, healed: bytes, told: str, where: str) -> None:
    url = f"{tmp_path}/metrics.jsonl" if where == "local" else f"memory://{tmp_path.name}/metrics.jsonl"
    storage.atomic_write(url, data)
    said = metrics.heal(url)
    assert (told in said) and bool(said) == bool(told) and "\n" not in said
    assert storage.read_bytes(url) == healed
    file = metrics.MetricsFile(url)
    file.write(stage="a", step=2)
    file.close()
    assert storage.read_bytes(url).startswith(healed) and metrics.read_rows(url)[-1]["step"] == 2
    storage.remove(url)


def test_no_file_needs_no_healing(tmp_path: Path) -> None:
    assert metrics.heal(f"{tmp_path}/metrics.jsonl") == ""
