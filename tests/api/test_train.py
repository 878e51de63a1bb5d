"""`train` from Python: the command line's bits, its resumption, a callback that stops, and a process left as it was."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from torch.utils.data import Dataset
from training_runs import TINY, VQ

import ldm_core
from ldm_core.cli import main
from ldm_core.errors import CheckpointError, ConfigError, DataError, Interrupted, TrainingError

RECIPE: dict[str, Any] = {
    **TINY,
    "first_stage": VQ,
    "conditioners": [{"use": "class_label", "dropout": 0.2}],
    "guidance": {"use": "cfg", "scale": 2.0},
    "sampler": "ddim",
    "first_stage_trainer": {**TINY["first_stage_trainer"], "steps": 4, "adversarial": False},
}
FILES = ("first_stage.safetensors", "model.safetensors", "recipe.yaml")


class Squares(Dataset[dict[str, Any]]):
    """A caller's own map-style data: a dark square, or a light one."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture = np.full((20, 24, 3), 40 + index, dtype=np.uint8)
        picture[4:12, index % 12 : index % 12 + 8] = 250 if index % 2 else 0
        return {"image": torch.from_numpy(picture), "class": ("dark", "light")[index % 2]}


def bits(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the command line."""
    made = tmp_path_factory.mktemp("whole")
    ldm_core.Recipe(RECIPE).save(made / "own.yaml")
    assert main(["train", "--recipe", str(made / "own.yaml"), "--out", str(made / "run"), "--quiet"]) == 0
    return made


def test_the_same_recipe_ends_with_the_command_lines_bits(whole: Path, tmp_path: Path) -> None:
    run = ldm_core.train(whole / "own.yaml", out=tmp_path)
    assert bits(tmp_path) == bits(whole / "run")
    assert run.finished and run.trained == {"first_stage": 4, "denoiser": 8} and run.folder == str(tmp_path)
    told = [{k: v for k, v in r.items() if "loss" in k} for r in run.metrics()]
    theirs = ldm_core.Run.open(whole / "run").metrics()
    assert told == [{k: v for k, v in r.items() if "loss" in k} for r in theirs]
    assert [r["step"] for r in run.metrics("denoiser")] == list(range(1, 9))
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert ldm_core.train(run.recipe, out=tmp_path).finished
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before, "a finished run is left alone"


PAIRS = [("first_stage", "python"), ("denoiser", "command line")]
OTHERS = [("first_stage", "command line"), ("denoiser", "python")]


@pytest.mark.parametrize(("stage", "way"), [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)])
def test_a_stopped_run_goes_on_bit_for_bit(stage: str, way: str, whole: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def stop(progress: ldm_core.TrainingProgress) -> bool:
        told.append(str(progress))
        return (progress.stage, progress.step) != (stage, 3)

    run = ldm_core.train(RECIPE, out=tmp_path, callback=stop)
    assert not run.finished and told[-1].startswith(f"{stage} 3/{4 if stage == 'first_stage' else 8} loss=")
    with pytest.raises(CheckpointError, match="its denoiser is not trained to its end yet"):
        run.pipeline()
    if way == "python":
        run = ldm_core.train(run.recipe, out=tmp_path)
    else:
        assert main(["train", "--recipe", str(whole / "own.yaml"), "--out", str(tmp_path), "--quiet"]) == 0
    assert run.finished and bits(tmp_path) == bits(whole / "run")


def test_a_signal_is_an_error_after_a_checkpoint(whole: Path, tmp_path: Path) -> None:
    def kill(progress: ldm_core.TrainingProgress) -> None:
        if (progress.stage, progress.step) == ("denoiser", 5):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="denoiser: stopped at step 5 of 8 with a checkpoint"):
        ldm_core.train(RECIPE, out=tmp_path, callback=kill)
    assert ldm_core.train(RECIPE, out=tmp_path).finished and bits(tmp_path) == bits(whole / "run")


def test_a_class_of_a_notebook_cannot_be_spawned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("multiprocessing.get_start_method", lambda **_: "spawn")
    monkeypatch.setattr(Squares, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(ConfigError, match=r"data\.workers=1: .*Squares.*data\.workers=0"):
        ldm_core.train(ldm_core.Recipe(RECIPE).changed("data.workers=1"), data=Squares(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ones_own_data_is_trained_on_and_sampled(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"data": Squares(), "out": tmp_path, "trainer": {"steps": 4}}
    run = ldm_core.train(RECIPE, **parts, callback=lambda progress: progress.step < 3)
    assert not run.finished
    listed = [
        {"image": np.asarray(e["image"]), "class_label": e["class"]} for e in map(Squares().__getitem__, range(24))
    ]
    run = ldm_core.train(RECIPE, **{**parts, "data": listed})
    assert run.finished, "the same contents are the same data, in whatever form they are held"
    pipeline = run.pipeline()
    assert pipeline.class_names == {"class_label": ["dark", "light"]}
    (made,) = pipeline.sample(inputs={"class_label": "light"}, steps=2, seed=3)
    assert made.image.shape == (3, 16, 16) and made.metadata["class_label"] == "light (1)"
    again = ldm_core.load(str(tmp_path), device="cpu").sample(inputs={"class_label": 1}, steps=2, seed=3)
    assert (again[0].image == made.image).all(), "the model is loaded without its data"

    listed[3]["image"] = listed[3]["image"] + 1
    with pytest.raises(ConfigError, match=r"holds a run of another recipe \(dataset\.fingerprint"):
        ldm_core.train(run.recipe, data=listed, out=tmp_path)
    with pytest.raises(ConfigError, match="examples were handed over in Python; give the same ones again"):
        ldm_core.train(run.recipe, out=tmp_path)
    assert main(["train", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path), "--quiet"]) == 2


def test_workers_read_ones_own_data(tmp_path: Path) -> None:
    stage: dict[str, Any] = {"first_stage": "identity", "trainer": {"steps": 3}}
    one = ldm_core.train(RECIPE, data=Squares(), out=tmp_path / "one", **stage)
    two = ldm_core.train(RECIPE, data=Squares(), out=tmp_path / "two", **stage)
    three = ldm_core.train(
        ldm_core.Recipe(RECIPE).changed("data.workers=1"), data=Squares(), out=tmp_path / "w", **stage
    )
    assert one.finished and two.finished and three.finished
    names = ("one", "two", "w")
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in names[:2]}) == 1
    loads = [ldm_core.load(str(tmp_path / name), device="cpu").model.state_dict() for name in names]
    assert all(torch.equal(loads[0][k], loads[2][k]) for k in loads[0])


def _state() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": [
            each.tolist() if isinstance(each, np.ndarray) else each for each in np.random.get_state()
        ],
        "Python's generator": random.getstate(),
        "device, dtype": (torch.get_default_device(), torch.get_default_dtype(), torch.get_float32_matmul_precision()),
        "torch's threads": (torch.get_num_threads(), torch.is_grad_enabled()),
        "threads": [t.name for t in threading.enumerate()],
        "warnings": (list(warnings.filters), warnings.showwarning),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "logging": (logging.root.manager.disable, logging.root.level, list(logging.root.handlers)),
        "process group": torch.distributed.is_initialized(),
        "folder": os.getcwd(),
    }


def test_the_process_stays_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    before = _state()
    ldm_core.train(TINY, out=tmp_path / "done", trainer={"steps": 2})
    after = _state()
    assert {key: after[key] for key in after if after[key] != before[key]} == {}
    with pytest.raises(KeyError, match="mine"):
        ldm_core.train(TINY, out=tmp_path / "raises", callback=lambda progress: dict[str, bool]()["mine"])
    with pytest.raises(ConfigError):
        ldm_core.train(TINY, out=tmp_path / "wrong", denoiser="nothing")
    after = _state()
    assert {key: after[key] for key in after if after[key] != before[key]} == {}
    out, _ = capfd.readouterr()
    assert out == "", "a library prints nothing by itself"


def test_one_training_at_a_time(tmp_path: Path) -> None:
    met: list[str] = []

    def nested(progress: ldm_core.TrainingProgress) -> bool:
        with pytest.raises(TrainingError, match="another training runs in this process") as told:
            ldm_core.train(TINY, out=tmp_path / "second")
        met.append(str(told.value))
        return False

    ldm_core.train(TINY, out=tmp_path / "first", callback=nested)
    assert len(met) == 1 and not (tmp_path / "second").exists()


def test_training_in_a_thread_and_without_gradients(tmp_path: Path) -> None:
    made: list[ldm_core.Run] = []
    with torch.no_grad():
        ldm_core.train(TINY, out=tmp_path / "here", trainer={"steps": 2})
    thread = threading.Thread(
        target=lambda: made.append(ldm_core.train(TINY, out=tmp_path / "there", trainer={"steps": 2}))
    )
    thread.start()
    thread.join()
    assert made[0].finished
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == (
        tmp_path / "there" / "model.safetensors"
    ).read_bytes()


def test_remarks_go_to_the_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, handler = logging.getLogger("ldm_core"), BufferingHandler(1000)
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    ldm_core.train(TINY, out=tmp_path, trainer={"steps": 1}, until="first_stage")
    said = [record.getMessage() for record in handler.buffer]
    assert any("data" in line or "first stage" in line for line in said)
    assert ldm_core.Run.open(tmp_path).trained == {"first_stage": 6}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"until": "samplez"}, ConfigError, "until='samplez': expected one of first_stage, latents, denoiser, samples"),
        ({"callback": 3}, ConfigError, "callback=3: expected a function"),
        ({"recipe": 3}, ConfigError, "recipe: expected a mapping"),
        ({"conditioner": ["class_label"]}, ConfigError, "conditioner: unknown key; did you mean 'conditioners'"),
        (
            {"data": 3},
            ConfigError,
            "data: expected a list of examples, a map-style torch.utils.data.Dataset, or a path",
        ),
        ({"data": []}, ConfigError, "data: no examples"),
        ({"data": [3]}, DataError, "data[0]: expected a mapping such as {'image': picture, 'caption': text}"),
        ({"data": "no/such/folder"}, ldm_core.LDMError, "no/such/folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    given: Mapping[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as told:
        ldm_core.train(**{"recipe": TINY, "out": tmp_path / "run", **given})
    assert said in str(told.value) and not (tmp_path / "run").exists()


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run \(no recipe.yaml\)"):
        ldm_core.Run.open(tmp_path)


PROGRAM = """
from test_train import RECIPE, Squares
import ldm_core
run = ldm_core.train(RECIPE, data=Squares(), out={out!r}, first_stage="identity", trainer={{"steps": 3}})
print(run.finished)
"""


def test_several_processes_share_ones_own_data(tmp_path: Path) -> None:
    """As under torchrun: each process calls `train` with its own copy of equal data."""
    script = tmp_path / "main.py"
    script.write_text(PROGRAM.format(out=str(tmp_path / "run")))
    said = on_ranks(script, paths=[str(Path(__file__).parent)])
    assert "".join(said.split()) == "TrueTrue"  # of two processes: a line may stand within the other's
    assert ldm_core.Run.open(tmp_path / "run").metrics("denoiser")[-1]["step"] == 3
