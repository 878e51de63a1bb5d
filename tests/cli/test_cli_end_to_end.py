"""The command line on a real, tiny run: train, skip what is done, sample, reconstruct, interrupt and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ldm_core.data import images

pytestmark = pytest.mark.slow
TINY = [
    "--first-stage",
    "identity",
    "--cond",
    "none",
    "--sampler",
    "ddpm",
    "image_size=16",
    "denoiser.channels=32",
    "dataset.scenes=32",
    "dataset.val_scenes=8",
    "trainer.images_per_step=4",
    "trainer.log_every=1",
    "sample.images=2",
    "sample.steps=3",
]


def _command(*line: str) -> list[str]:
    return [sys.executable, "-m", "ldm_core.cli", *line]


def _environment() -> dict[str, str]:
    return {**os.environ, "LDM_PLUGINS": "", "OMP_NUM_THREADS": "1"}


def _run(folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*line), cwd=folder, env=_environment(), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of two steps lies, in ``run``."""
    made = tmp_path_factory.mktemp("cli")
    done = _run(made, *TINY, "--train-steps", "2", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "done"
    assert (made / document["model"]).exists() and (made / document["samples"]).exists()
    return made


def test_what_is_done_is_skipped(folder: Path) -> None:
    done = _run(folder, *TINY, "--train-steps", "2", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "first stage: already done, skipped" in done.stderr
    assert "denoiser: already done, skipped" in done.stderr


def test_another_recipe_in_the_folder_is_an_error(folder: Path) -> None:
    done = _run(folder, *TINY, "--train-steps", "3", "--out", "run")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: trainer.steps: the rate of the run in run falls to its end at step 2 (schedule=cosine), so that one of "
        "3 steps is another run; start one from its weights: `ldm-run` --init-from run --out NEW trainer.steps=1"
    )


def test_an_image_depends_on_its_seed_alone(folder: Path) -> None:
    """In whatever batch it is sampled: to one step of 8 bits, as 1e-5 may fall on either side of a rounding."""
    many = _run(folder, "sample", "run", "--seeds", "3..6", "--steps", "3", "--batch", "4", "--out", "a", "--json")
    assert many.returncode == 0, many.stderr
    one = _run(folder, "sample", "run", "--seeds", "5", "--steps", "3", "--out", "b", "--json")
    files = [i["path"] for i in json.loads(many.stdout)["images"]]
    (alone,) = [i["path"] for i in json.loads(one.stdout)["images"]]
    data = [(folder / f).read_bytes() for f in (files[2], alone)]
    first, second = (images.decode_image(d).astype(int) for d in data)
    assert np.abs(first - second).max() <= 1
    metadata = images.png_metadata(data[1])
    assert metadata["seed"] == "5"
    assert {"prompt", "recipe", "weights_sha256"} <= set(metadata)
    assert len({(folder / f).read_bytes() for f in files}) == 4


def test_reconstruct(folder: Path) -> None:
    """The identity stage gives a picture back exactly: no error, and so no finite PSNR."""
    picture = np.random.default_rng(0).integers(0, 256, (3, 12, 20), dtype=np.uint8)
    (folder / "p.png").write_bytes(images.png_bytes(picture))
    done = _run(folder, "reconstruct", "run", "p.png", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["images"]
    assert row == {"image": "p.png", "psnr": None, "size": [12, 20], "path": "reconstructions/0000-p.png"}
    back = images.decode_image((folder / row["path"]).read_bytes())
    assert (back == picture).all()


def test_interrupted_and_going_on(folder: Path) -> None:
    """Ctrl-C: a checkpoint, exit code 130, and the same command goes on from it."""
    line = ["train", *TINY, "--train-steps", "100000", "--out", "long"]
    process = subprocess.Popen(
        _command(*line), cwd=folder, env=_environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    seen = []
    for text in process.stderr:
        seen.append(text)
        if "denoiser: " in text and "/100000" in text:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, "".join(seen) + rest
    assert "interrupted: " in rest and "the same command" in rest
    again = subprocess.Popen(
        _command(*line), cwd=folder, env=_environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert again.stderr is not None
    for text in again.stderr:
        if "going on at step" in text:
            assert int(text.split("going on at step ")[1].split()[0]) > 0
            break
    else:
        pytest.fail("the second run did not go on from the checkpoint")
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=120)
    assert again.returncode == 130
