"""``ldm-run convert`` and ``ldm-run sample --weights``: whole or not at all, and the same pictures afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import plain_model, served, tiny, write
from s3_server import s3_bucket
from safetensors.torch import load_file, save_file

import ldm_core
from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.errors import StorageError
from ldm_core.recipe import artifacts
from ldm_core.testing.suites.codec import random_weights
from ldm_core.weights import open
from ldm_core.weights.source import open_source


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tiny(), "ldm", tmp_path_factory.mktemp("native") / "run")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache"))


def told(line: str, capfd: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    capfd.readouterr()
    assert main(line.split()) == code
    out, err = capfd.readouterr()
    return out, err


def left(folder: Path) -> list[str]:
    """What is in a folder, hidden or not."""
    return sorted(os.listdir(folder))


def test_there_and_back(run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, err = told(f"convert {run} model.ckpt --to compvis", capfd)
    assert "a model of ldm-core, with its first stage (ldm); parameters: first_stage 658,383" in out and err == ""
    out, _ = told("convert model.ckpt back --to ldm image_size=16", capfd)
    assert left(tmp_path) == ["back", "model.ckpt", "model.yaml"]
    assert left(tmp_path / "back") == ["first_stage.safetensors", "model.safetensors", "recipe.yaml"]
    for name in ("first_stage.safetensors", "model.safetensors"):
        before, after = load_file(f"{run}/{name}"), load_file(f"back/{name}")
        assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    a, b = (ldm_core.load(folder).with_settings({"sampler": "ddpm"}) for folder in (run, "back"))
    draw: dict[str, Any] = {"images": 1, "steps": 2, "inputs": {"class_label": 2}, "guidance": 1.0}
    assert np.array_equal(a.sample(**draw)[0].image, b.sample(**draw)[0].image)
    header = artifacts.read_header("back/model.safetensors", "model")
    assert header.extra["first_stage_sha256"] == artifacts.sha256("back/first_stage.safetensors")


def test_the_same_bytes_each_time(run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told(f"convert {run} a --to ldm", capfd)
    told(f"convert {run} b --to ldm", capfd)
    for name in left(tmp_path / "a"):
        assert Path(f"a/{name}").read_bytes() == Path(f"b/{name}").read_bytes()


def test_json(run: str, capfd: pytest.CaptureFixture[str]) -> None:
    out, err = told(f"convert {run} a --to ldm --json", capfd)
    found = json.loads(out)
    assert found["status"] == "done" and found["source"]["codec"] == "ldm" and found["source"]["holds"] == "model"
    assert [row["path"] for row in found["files"]] == [
        "a/recipe.yaml",
        "a/first_stage.safetensors",
        "a/model.safetensors",
    ]
    assert [row["bytes"] for row in found["files"]] == [Path(row["path"]).stat().st_size for row in found["files"]]
    assert found["source"]["parameters"]["first_stage"] == 658_383 and err == ""


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision(run: str, name: str, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]) -> None:
    told(f"convert {run} half --to ldm --dtype {name}", capfd)
    before, after = load_file(f"{run}/model.safetensors"), load_file("half/model.safetensors")
    assert all(torch.equal(after[k], v.to(dtype)) for k, v in before.items())
    stage = load_file("half/first_stage.safetensors")
    assert stage["latent_std"].dtype == torch.float32 and stage["encoder.conv_in.weight"].dtype == dtype
    made = ldm_core.load("half").sample(images=1, steps=2, inputs={"class_label": 0})[0].image
    whole = ldm_core.load(run).sample(images=1, steps=2, inputs={"class_label": 0})[0].image
    assert made.shape == whole.shape and np.abs(made.astype(int) - whole.astype(int)).mean() < 8


def test_a_weight_beyond_half_precision(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(plain_model(), seed=3)
    assert weights.model is not None
    weights.model["denoiser.out.2.bias"][0] = 1e5
    path = write(weights, "ldm", tmp_path / "run")
    _, err = told(f"convert {path} half --to ldm --dtype fp16", capfd, 2)
    assert "--dtype fp16: denoiser.out.2.bias holds 1e+05, which is beyond what fp16 holds; use --dtype bf16" in err
    assert left(tmp_path) == ["run"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("convert {run} --to ldm", "convert: give two places, where the weights are and where they go"),
        ("convert {run} out --to gguf", "no codec named 'gguf'"),
        ("convert {run} out", "Missing option '--to'"),
        ("convert {run} out third --to ldm", "unexpected argument 'third'; a setting is KEY=VALUE"),
        ("convert {run} {run} --to ldm --force", "give another place"),
        ("convert {run} . --to ldm --force", "give another place"),
        ("convert {run} full --to ldm", "full: is there already; give another place, or --force to replace it"),
        ("convert nowhere out --to ldm", "nowhere: no such file or folder"),
        ("convert {run} http://127.0.0.1:1/out --to ldm", "http is read only"),
        ("convert {run} s3://bucket/ --to ldm --force", "is a whole bucket, which --force would empty"),
        ("convert table.safetensors out --to ldm", "no codec knows these weights; it holds 1 tensor"),
        ("convert {run} out.onnx --to compvis", "out.onnx"),
        ("convert {run} out --to ldm codec.nothing=1", "codec 'ldm' has no such option"),
        ("convert {run} out --to ldm --sha256 12", "expected 64 hex digits"),
        ("convert {run} out --to ldm --from compvis", "is nothing that codec 'compvis' knows"),
    ],
)
def test_mistakes(run: str, line: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    save_file({"a": torch.zeros(2)}, "table.safetensors")
    before = left(tmp_path)
    _, err = told(line.format(run=run), capfd, 2)
    assert said in err
    assert left(tmp_path) == before and left(tmp_path / "full") == ["kept.txt"]


def test_force_replaces_all(run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.txt").write_text("old")
    told(f"convert {run} full --to ldm --force", capfd)
    assert left(tmp_path / "full") == ["first_stage.safetensors", "model.safetensors", "recipe.yaml"]
    assert left(tmp_path) == ["full"]


def test_what_fails_leaves_nothing(
    run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = storage.atomic_write, [0]

    def full_disk(url: Any, data: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise StorageError(f"{url}: no space left on the device")
        real(url, data)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.txt").write_text("old")
    monkeypatch.setattr(storage, "atomic_write", full_disk)
    _, err = told(f"convert {run} full --to ldm --force", capfd, 2)
    assert "no space left" in err
    assert left(tmp_path) == ["full"] and left(tmp_path / "full") == ["old.txt"]


def test_room_is_looked_for_first(
    run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    _, err = told(f"convert {run} out --to ldm", capfd, 2)
    assert "out: the weights take 7.6 MB and 1.0 MB are free there" in err
    assert left(tmp_path) == []


def test_a_first_stage_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tiny("first_stage"), "compvis", tmp_path / "vae.safetensors")
    told(f"convert {path} stage --to ldm image_size=16", capfd)
    assert left(tmp_path / "stage") == ["first_stage.safetensors", "recipe.yaml"]
    _, err = told(f"sample {path} image_size=16", capfd, 2)
    assert "is a first stage alone, and nothing to sample from" in err


def test_sampling_foreign_weights(run: str, capfd: pytest.CaptureFixture[str]) -> None:
    told(f"convert {run} web/model.safetensors --to compvis", capfd)
    sha = open_source("web/model.safetensors").sha256()
    with served(Path("web")) as address:
        more = (
            f"image_size=16 --class 1 --images 2 --steps 2 --sampler ddpm guidance=none --sha256 {sha} --json --quiet"
        )
        out, _ = told(f"sample --weights {address}/model.safetensors --out far {more}", capfd)
        assert json.loads(out)["weights_sha256"] == sha
        _, err = told(f"sample --weights {address}/model.safetensors --sha256 {'0' * 64}", capfd, 2)
        assert f"has the SHA-256 {sha} and not 0000" in err
    out, _ = told(f"sample {run} --out near --class 1 --images 2 --steps 2 --sampler ddpm --quiet", capfd)
    for name in ("0000-seed0.png", "0001-seed1.png"):
        far, near = (_pixels(Path(folder) / name) for folder in ("far", "near"))
        assert np.array_equal(far, near)
    _, err = told(f"sample {run} --weights web/model.safetensors", capfd, 2)
    assert "both say what to sample from; give one" in err


def test_settings_are_those_of_the_named_sampler(run: str, capfd: pytest.CaptureFixture[str]) -> None:
    draw = "--class 1 --images 1 --steps 3 --quiet"
    told(f"sample {run} --out named --sampler ddim --time-grid shifted sampler.eta=0.5 time_grid.shift=2 {draw}", capfd)
    told(f"sample {run} --out set sampler=ddim time_grid=shifted sampler.eta=0.5 time_grid.shift=2 {draw}", capfd)
    told(f"sample {run} --out plain --sampler ddim --time-grid shifted {draw}", capfd)
    named, chosen, plain = (_pixels(Path(folder) / "0000-seed0.png") for folder in ("named", "set", "plain"))
    assert np.array_equal(named, chosen) and not np.array_equal(named, plain)
    _, err = told(f"sample {run} --sampler euler sampler.eta=0.5 {draw}", capfd, 2)
    assert "sampler.eta: unknown key (known: none)" in err


def _pixels(path: Path) -> np.ndarray:
    from ldm_core.data.images import decode_image

    return decode_image(path.read_bytes(), 3, str(path))


@pytest.fixture
def s3() -> Iterator[str]:
    with s3_bucket("weights") as url:
        yield url


def test_to_and_from_object_storage(run: str, s3: str, capfd: pytest.CaptureFixture[str]) -> None:
    told(f"convert {run} {s3}/run --to ldm", capfd)
    names = sorted(storage.base_name(f.url) for f in storage.list_files(f"{s3}/run"))
    assert names == ["first_stage.safetensors", "model.safetensors", "recipe.yaml"]
    _, err = told(f"convert {run} {s3}/run --to ldm", capfd, 2)
    assert "is there already" in err
    told(f"convert {s3}/run {s3}/model.ckpt --to compvis", capfd)
    opened = open.open_weights(f"{s3}/model.ckpt", Catalog.discover(), open.Wanted(given={"image_size": 16}))
    expected = tiny().model
    assert expected is not None and opened.weights.model is not None
    assert all(torch.equal(opened.weights.model[k], v) for k, v in expected.items())
