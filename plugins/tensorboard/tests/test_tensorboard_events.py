"""What the observer writes, read back with TensorBoard's own reader."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install ldm-plugin-tensorboard)")

from ldm_plugin_tensorboard.config import TensorBoardConfig
from ldm_plugin_tensorboard.observer import TensorBoardObserver
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import TINY

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.errors import Interrupted, StorageError
from ldm_core.testing import ObserverSuite
from ldm_core.training import workflow


class _Story(ObserverSuite):
    """Its tale of a run, told to an observer."""

    component = "tensorboard"


def _read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def test_numbers_pictures_and_the_recipe(tmp_path: Path) -> None:
    _Story().told(str(tmp_path))
    base = tmp_path / "tensorboard"
    denoiser = _read(base / "denoiser")
    assert [(e.step, e.value) for e in denoiser.Scalars("loss")] == [
        (s, pytest.approx(1 / s)) for s in (2, 4, 6, 8)
    ]  # fmt: skip
    assert sorted(denoiser.Tags()["scalars"]) == ["images_per_second", "loss", "lr"]
    (picture,) = denoiser.Images("samples")
    assert (picture.step, picture.width, picture.height) == (4, 24, 16)
    assert picture.encoded_image_string == (tmp_path / "a.png").read_bytes()
    held_out = _read(base / "denoiser_validation")
    assert [(e.step, e.value) for e in held_out.Scalars("loss")] == [(4, 0.5)], "the tag of training"
    recipe = _read(base)
    (text,) = recipe.Tensors("recipe")
    assert "use: unet" in text.tensor_proto.string_val[0].decode()
    assert recipe.SummaryMetadata("recipe").plugin_data.plugin_name == "text"


def test_a_run_that_goes_on_replaces_what_it_does_again(tmp_path: Path) -> None:
    """The first time reached step 5; the second goes on from 2 with steps 4, 6 and 8."""
    _Story().told(str(tmp_path), end="interrupted")
    time.sleep(1.01)  # files of one second are read by the text of a process's counter: 10 before 9
    _Story().told(str(tmp_path), start=2)
    steps = [e.step for e in _read(tmp_path / "tensorboard" / "denoiser").Scalars("loss")]
    assert steps == [2, 4, 6, 8]


def test_numbers_that_are_not_finite_are_written(tmp_path: Path) -> None:
    observer = TensorBoardObserver(TensorBoardConfig(), Site(size=(8, 8)))
    observer.ldm_run_start({}, str(tmp_path))
    observer.ldm_step("denoiser", 1, {"loss": math.nan})
    observer.ldm_run_end("failed")
    (event,) = _read(tmp_path / "tensorboard" / "denoiser").Scalars("loss")
    assert math.isnan(event.value)


def test_a_folder_of_ones_own_and_no_pictures(tmp_path: Path) -> None:
    observer = TensorBoardObserver(TensorBoardConfig(folder=str(tmp_path / "logs"), pictures=False), Site(size=(8, 8)))
    observer.ldm_run_start({}, str(tmp_path / "run"))
    observer.ldm_images("samples", 3, "samples.png", str(tmp_path / "is not read.png"))
    observer.ldm_run_end("done")
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


def test_a_run_at_a_url_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    out = "memory://tensorboard-url/run"
    _Story().told(out)
    found = storage.list_files(f"{out}/tensorboard", recursive=True)
    assert len(found) == 4, "a file a stage, and the recipe's"
    for file in found:
        copy = tmp_path / "back" / storage.parent(file.url).rpartition("tensorboard")[2].strip("/")
        copy.mkdir(parents=True, exist_ok=True)
        (copy / storage.base_name(file.url)).write_bytes(storage.read_bytes(file.url))
    assert [e.step for e in _read(tmp_path / "back" / "denoiser").Scalars("loss")] == [2, 4, 6, 8]
    assert [p.name for p in tmp_path.iterdir()] == ["back"], "the local files are gone"


def test_an_upload_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    observer = TensorBoardObserver(TensorBoardConfig(folder="memory://tensorboard-refused"), Site(size=(8, 8)))
    observer.ldm_run_start({}, "memory://elsewhere")
    observer.ldm_step("denoiser", 1, {"loss": 1.0})

    def refuse(url: str, data: bytes) -> None:
        raise StorageError("cannot write")

    monkeypatch.setattr(storage, "atomic_write", refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        observer.ldm_run_end("done")
    said = [str(w.message) for w in caught]
    (kept,) = tmp_path.iterdir()
    assert said == ["tensorboard: cannot write", f"tensorboard: the event files stay in {kept}"]
    assert [e.value for e in _read(kept / "denoiser").Scalars("loss")] == [1.0]


def test_it_follows_a_training_run(tmp_path: Path) -> None:
    """What metrics.jsonl says is what TensorBoard shows, also of a run that was stopped on its way."""

    def train(steps: int) -> None:
        catalog = Catalog.discover()
        plain: dict[str, Any] = {**TINY, "observers": ["tensorboard"]}
        recipe, info = workflow.prepare(plain, catalog)
        catalog.manager.register(_Stop(steps))
        workflow.run(recipe, info, catalog, str(tmp_path))

    with pytest.raises(Interrupted):
        train(5)
    train(0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = {r["step"]: r["loss"] for r in rows if r["stage"] == "denoiser"}
    events = _read(tmp_path / "tensorboard" / "denoiser")
    assert {e.step: e.value for e in events.Scalars("loss")} == {k: pytest.approx(v) for k, v in expected.items()}
    assert sorted(expected) == list(range(1, 9))
    (sheet,) = _read(tmp_path / "tensorboard" / "samples").Images("samples")
    assert sheet.encoded_image_string == (tmp_path / "samples.png").read_bytes()


class _Stop:
    """Asks the run to stop at a step of the denoiser."""

    def __init__(self, step: int) -> None:
        self._step = step

    from ldm_core import hookimpl

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Any) -> None:
        import os
        import signal

        if (stage, step) == ("denoiser", self._step):
            os.kill(os.getpid(), signal.SIGTERM)


def test_it_needs_no_tensorflow() -> None:
    code = (
        "import sys, ldm_plugin_tensorboard.observer;"
        "print(*(n for n in ('tensorflow', 'torch', 'torchvision') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
