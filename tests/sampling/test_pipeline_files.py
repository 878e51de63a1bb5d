"""A run's files: one first stage for several models, damaged and foreign files, other versions."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.check import misfits
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.load import VersionWarning
from ldm_core.training import workflow

TINY: dict[str, Any] = {
    "image_size": 16,
    "scale": "small",
    "first_stage": {"use": "vq_f4", "channels": 16, "codebook_size": 64},
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1], "heads": 2, "attention": [], "norm_groups": 8},
    "conditioners": [{"use": "class_label", "width": 16}],
    "parameterization": "v",
    "dataset": {"use": "shapes", "scenes": 16, "val_scenes": 4},
    "first_stage_trainer": {"steps": 2, "images_per_step": 4, "adversarial": False, "lr": 1e-3},
    "trainer": {"steps": 2, "images_per_step": 4, "lr": 0.02, "log_every": 1},
    "sample": {"steps": 2, "images": 1},
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def trained(plain: dict[str, Any], out: Path, catalog: Catalog) -> Path:
    recipe, info = workflow.prepare(plain, catalog)
    assert workflow.run(recipe, info, catalog, str(out)).status == "done"
    return out


@pytest.fixture(scope="module")
def first(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(TINY, tmp_path_factory.mktemp("runs") / "first", catalog)


@pytest.fixture()
def copy(first: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    for name in (artifacts.MODEL_FILE, artifacts.STAGE_FILE):
        (tmp_path / "copy").mkdir(exist_ok=True)
        shutil.copy(first / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


def stages_of(out: Path) -> set[str]:
    return {json.loads(line)["stage"] for line in (out / "metrics.jsonl").read_text().splitlines()}


def rewrite(file: Path, change: Callable[[dict[str, Any]], None], **tensors: torch.Tensor) -> None:
    """Write the file again with its metadata changed, and with further tensors."""
    with safe_open(file, "pt") as opened:
        body = json.loads(opened.metadata()["ldm_core"])
    change(body)
    save_file({**load_file(file), **tensors}, file, metadata={"ldm_core": json.dumps(body)})


# ------------------------------------------------------------------------------------- one stage, several models


def test_one_first_stage_serves_two_models(first: Path, catalog: Catalog, tmp_path: Path) -> None:
    parts = {"conditioners": [], "trainer": {**TINY["trainer"], "steps": 1}}
    plain = {**TINY, **parts, "first_stage": str(first), "seed": 4}
    recipe, _ = workflow.prepare(plain, catalog)
    stage_file = first / artifacts.STAGE_FILE
    assert recipe.first_stage.weights == str(first) and recipe.first_stage.use == "vq_ae"
    assert recipe.first_stage.sha256 == artifacts.sha256(str(stage_file))
    assert recipe.first_stage.config.channels == 16, "its own settings come with the file"
    second = trained(plain, tmp_path / "second", catalog)
    assert (second / artifacts.STAGE_FILE).read_bytes() == stage_file.read_bytes()
    assert "first_stage" in stages_of(first)
    assert stages_of(second) == {"denoiser", "denoiser_validation"}, "the stage was trained again"

    a, b = (ldm_core.load(str(folder), device="cpu") for folder in (first, second))
    theirs: Any = b.stage
    ours: Any = a.stage
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    assert a.weights != b.weights and not any(p.requires_grad for p in theirs.parameters())
    assert b.sample(images=2)[0].image.shape == (3, 16, 16)


def test_a_model_loads_where_its_stages_source_is_gone(first: Path, catalog: Catalog, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(first / artifacts.STAGE_FILE, source)
    second = trained({**TINY, "first_stage": str(source)}, tmp_path / "second", catalog)
    shutil.rmtree(source)
    moved = tmp_path / "moved"
    second.rename(moved)
    assert ldm_core.load(str(moved), device="cpu").sample(inputs={"class_label": 1})[0].image.shape == (3, 16, 16)


def test_the_hash_tells_another_stage(first: Path, catalog: Catalog, tmp_path: Path) -> None:
    one = resolve({**TINY, "first_stage": str(first)}, catalog)
    moved = tmp_path / "elsewhere.safetensors"
    shutil.copy(first / artifacts.STAGE_FILE, moved)
    same = resolve({**TINY, "first_stage": str(moved)}, catalog)
    assert one.identity() == same.identity(), "the place does not matter, the content does"
    rewrite(moved, lambda body: body.update(note="other"))
    assert resolve({**TINY, "first_stage": str(moved)}, catalog).identity() != one.identity()
    given = {"weights": str(moved), "sha256": one.first_stage.sha256}
    with pytest.raises(ConfigError, match="is not the file that the recipe was made with"):
        resolve({**TINY, "first_stage": given}, catalog)


def test_a_trained_stage_keeps_its_settings(first: Path, catalog: Catalog) -> None:
    with pytest.raises(
        ConfigError, match=r"first_stage.channels: a trained stage keeps its own settings \(channels: 16"
    ):
        resolve({**TINY, "first_stage": {"weights": str(first), "channels": 32}}, catalog)
    with pytest.raises(ConfigError, match="holds a 'vq_ae', not a 'kl_f4'"):
        resolve({**TINY, "first_stage": {"use": "kl_f4", "weights": str(first)}}, catalog)
    grey = list(misfits(resolve({**TINY, "first_stage": str(first), "image_channels": 1}, catalog)))
    assert any("takes 3 image channels and the recipe has image_channels: 1" in line for line in grey)


# ------------------------------------------------------------------------------------- damaged and foreign files


def refused(folder: Path | str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        ldm_core.load(str(folder), device="cpu")
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("name", [artifacts.MODEL_FILE, artifacts.STAGE_FILE])
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.5, 0.9999])
def test_a_truncated_file_is_refused(name: str, share: float, copy: Path) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: int(share * len(whole))])
    refused(copy, rf"{name}.*(cut short|is no safetensors file|is not the first stage)")


def test_what_is_no_weights_file_is_refused(copy: Path, tmp_path: Path) -> None:
    model = copy / artifacts.MODEL_FILE
    model.write_text("these are not weights, whatever the name says")
    refused(copy, "is no safetensors file, or was cut short")
    model.write_bytes((7).to_bytes(8, "little") + b"[1,2,3]" + b"more")
    refused(copy, "is no safetensors file")
    save_file({"a": torch.zeros(2)}, model)
    refused(copy, "was not written by ldm-core")
    refused(tmp_path / "nowhere", "no such file or folder")
    model.unlink()
    refused(copy, "holds no model.safetensors")


def test_a_stage_is_not_taken_for_a_model(first: Path, copy: Path) -> None:
    refused(first / artifacts.STAGE_FILE, "holds a first stage, not a model")
    with pytest.raises(CheckpointError, match="holds a model, not a first stage"):
        artifacts.stage_header(str(first / artifacts.MODEL_FILE))
    (copy / artifacts.STAGE_FILE).unlink()
    refused(copy, "holds no first_stage.safetensors")


def test_weights_of_another_architecture_are_refused(copy: Path) -> None:
    model = copy / artifacts.MODEL_FILE
    rewrite(model, lambda body: body["config"]["denoiser"].update(channels=32))
    refused(copy, r"model.safetensors: these weights are of another architecture: \d+ of another shape")
    rewrite(model, lambda body: body["config"]["denoiser"].update(channels=16, res_blocks=2))
    refused(copy, r"another architecture: .*\d+ missing")
    rewrite(model, lambda body: body["config"]["denoiser"].update(res_blocks=1), stray=torch.zeros(1))
    refused(copy, r"another architecture: 1 unexpected \(e.g. stray\)")


def test_another_first_stage_beside_the_model_is_refused(copy: Path) -> None:
    rewrite(copy / artifacts.STAGE_FILE, lambda body: body.update(note="other"))
    refused(copy, "first_stage.safetensors is not the first stage that .*model.safetensors was trained on")


def test_other_versions_are_named(copy: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ldm_core.load(str(copy), device="cpu")
    rewrite(copy / artifacts.MODEL_FILE, lambda body: body["versions"].update({"ldm-plugin-vq-ae": "0.0.7"}))
    with pytest.warns(
        VersionWarning, match=rf"was made with ldm-plugin-vq-ae 0.0.7 \(installed: {ldm_core.__version__}\)"
    ):
        ldm_core.load(str(copy), device="cpu")


def test_a_newer_format_says_update(copy: Path) -> None:
    rewrite(copy / artifacts.MODEL_FILE, lambda body: body.update(format=99))
    refused(copy, "format 99 is newer than this ldm-core reads; update ldm-core")
