"""A run that starts from weights of another program: a first stage, a model, more inputs, another context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import CLASSES as THREE
from foreign_models import KL, UNET, plain_model, tiny, write
from training_runs import Watch, go, weights

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.cli.assemble import assemble
from ldm_core.cli.flags import in_flags
from ldm_core.cli.options import RecipeOptions
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts
from ldm_core.recipe.resolve import resolve
from ldm_core.testing.suites.codec import random_weights
from ldm_core.weights.convert import finder

MODEL = ("first_stage", "latents", "denoiser")
STILL = ("trainer.steps=1", "trainer.lr=1e-12", "trainer.weight_decay=0.0", "trainer.ema=0.0")
CLASSES = {**THREE, "classes": 32}  # as many as the shapes have
PARTS: Mapping[str, Any] = {"denoiser": UNET, "conditioners": [CLASSES], "parameterization": "eps"}

FIND = finder(Catalog.discover())


def _model() -> dict[str, Any]:
    return plain_model(image_size=256, conditioners=[CLASSES])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where foreign weights are converted to."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LDM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CompVis file of a model of 4 latent channels and 32 classes."""
    folder = tmp_path_factory.mktemp("foreign")
    return write(random_weights(_model()), "compvis", folder / "sd.ckpt")


def _started(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = artifacts.read_header(str(out / artifacts.MODEL_FILE), "model").extra["started"]
    return found


def _run(out: Path, source: str, *overrides: str, first_stage: str = "", **changes: Any) -> Watch:
    parts = {**PARTS, "first_stage": first_stage or source, **changes}
    return go(out, *STILL, f"trainer.init_from={source}", *overrides, stages=MODEL, **parts)


def test_a_first_stage_of_a_foreign_file(tmp_path: Path, cache: Path) -> None:
    path = write(tiny("first_stage"), "compvis", tmp_path / "kl.ckpt")
    catalog = Catalog.discover()
    recipe = resolve({"image_size": 16, "first_stage": path}, catalog, find=FIND)
    assert recipe.first_stage.use == "kl_ae" and recipe.first_stage.weights == path
    again = resolve({"image_size": 16, "first_stage": path}, catalog, find=FIND)
    assert again.first_stage.sha256 == recipe.first_stage.sha256 and again.identity() == recipe.identity()
    made = FIND(path, artifacts.STAGE_FILE)
    assert Path(made).is_relative_to(cache) and artifacts.sha256(made) == recipe.first_stage.sha256
    elsewhere = tmp_path / "copy" / "other_name.ckpt"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(Path(path).read_bytes())
    assert FIND(str(elsewhere), artifacts.STAGE_FILE) == made  # known by its content
    with pytest.raises(CheckpointError, match=r"kl.ckpt: holds no denoiser"):
        FIND(path, artifacts.MODEL_FILE)


def test_another_content_in_the_same_place(tmp_path: Path) -> None:
    catalog = Catalog.discover()
    hashes = []
    for seed in (1, 2):
        path = write(random_weights(plain_model(), "first_stage", seed=seed), "compvis", tmp_path / "kl.ckpt")
        hashes.append(resolve({"image_size": 16, "first_stage": path}, catalog, find=FIND).first_stage.sha256)
    assert hashes[0] != hashes[1]


def test_a_model_goes_on_from_a_foreign_file(source: str, tmp_path: Path) -> None:
    _run(tmp_path / "run", source)
    after = weights(tmp_path / "run")
    expected = random_weights(_model()).model
    assert expected is not None and after.keys() == expected.keys()
    assert max(float((after[k] - v).abs().max()) for k, v in expected.items()) < 1e-6
    said = _started(tmp_path / "run")
    assert said["share"] == 1.0 and not said["fresh"] and not said["unused"] and said["source"] == Path(source).name
    stage = weights(tmp_path / "run", "first_stage.safetensors")
    assert torch.equal(stage["latent_std"], torch.full((4,), 4.0))
    import shutil

    folder = Path(FIND(source, artifacts.MODEL_FILE)).parent
    before = artifacts.sha256(str(folder / artifacts.MODEL_FILE))
    shutil.rmtree(folder)  # the cache was emptied: the same bytes come again, and the run is found finished
    assert artifacts.sha256(FIND(source, artifacts.MODEL_FILE)) == before
    watch = _run(tmp_path / "run", source)
    assert ("denoiser", "skipped") in watch.ends


def test_more_input_channels_begin_at_zero(source: str, tmp_path: Path) -> None:
    """4 -> 9, as for inpainting: the picture behind the mask and the mask beside the latents."""
    masked = {"use": "masked_image", "dropout": 0.0}
    if "masked_image" not in Catalog.discover().names("conditioner"):
        pytest.skip("the conditioner masked_image is not installed")
    _run(tmp_path, source, conditioners=[CLASSES, masked])
    said, after = _started(tmp_path), weights(tmp_path)
    name = "denoiser.input_blocks.0.0.weight"
    assert said["adapted"] == {name: "5 further input channel(s) from zero"} and not said["unused"]
    expected = random_weights(_model()).model
    assert expected is not None and after[name].shape == (32, 9, 3, 3)
    assert torch.allclose(after[name][:, :4], expected[name], atol=1e-6)
    assert float(after[name][:, 4:].abs().max()) < 1e-6


def test_another_context_width_starts_fresh(source: str, tmp_path: Path) -> None:
    watch = _run(tmp_path, source, "conditioners.class_label.width=24")
    said = _started(tmp_path)
    fresh = set(said["fresh"])
    assert fresh and all(".attn2.to_k." in n or ".attn2.to_v." in n or n.startswith("conditioners.") for n in fresh)
    assert said["share"] > 0.9 and any("of the parameters" in line for line in watch.messages)


def test_other_latents_are_refused(source: str, tmp_path: Path) -> None:
    other = write(random_weights(_model(), "first_stage", seed=7), "compvis", tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match=r"sd.ckpt was trained on latents of another first stage"):
        _run(tmp_path / "run", source, first_stage=other)


def test_a_first_stage_is_finetuned_from_a_foreign_file(tmp_path: Path) -> None:
    path = write(tiny("first_stage"), "compvis", tmp_path / "kl.ckpt")
    go(tmp_path / "run", f"first_stage_trainer.init_from={path}", "first_stage_trainer.steps=1",
       "first_stage_trainer.lr=1e-12", "first_stage_trainer.adversarial=false", first_stage=KL,
       stages=("first_stage",))  # fmt: skip
    after, before = weights(tmp_path / "run", "first_stage.safetensors"), tiny("first_stage").first_stage
    assert before is not None
    own = [k for k in before if not k.startswith("latent_")]
    assert max(float((after[k] - before[k]).abs().max()) for k in own) < 1e-6


def test_what_is_unknown_says_how_to_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_core.contracts.codec import Recognised
    from ldm_core.weights import codecs

    path = write(tiny("first_stage"), "compvis", tmp_path / "kl.ckpt")
    real = codecs.recognise

    def doubtful(*args: Any, **kwargs: Any) -> Any:
        name, codec, _ = real(*args, **kwargs)
        return name, codec, Recognised(what="half known", holds="model", unknown={"denoiser.heads": (4, 8)})

    monkeypatch.setattr(codecs, "recognise", doubtful)
    with pytest.raises(ConfigError) as caught:
        FIND(path, artifacts.STAGE_FILE)
    assert "nothing says denoiser.heads; add denoiser.heads=4 (one of: 4, 8)" in caught.value.problems[0]
    command = f"`ldm-run convert {path} FOLDER denoiser.heads=... --to ldm`"
    assert in_flags(caught.value.problems[1]) == f"convert it to codec ldm first: {command}; give FOLDER"


def test_the_option_builds_the_model_as_the_weights_are(source: str) -> None:
    catalog = Catalog.discover()
    made = assemble(RecipeOptions(init_from=source, settings=("trainer.steps=3",)), catalog)
    recipe = resolve(made.plain, catalog, find=FIND)
    assert recipe.first_stage.weights == source and recipe.trainer.init_from == source
    assert recipe.denoiser.config.channels == 32 and recipe.image_size == (256, 256)
    assert (recipe.trainer.lr, recipe.trainer.steps) == (1e-5, 3)
    assert len(made.notes) == 2 and "its first stage is taken, frozen" in made.notes[1]
    own = assemble(RecipeOptions(recipe="laptop", init_from=source, first_stage="vq_f4"), catalog)
    assert own.plain["first_stage"] == "vq_f4" and not own.notes
    assert own.plain["trainer"]["init_from"] == source and own.plain["trainer"]["lr"] == 1.2e-3


def test_the_command(source: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = [
        "train", "--init-from", source, "--out", str(tmp_path / "run"), "--json", "image_size=16",
        "dataset={use: shapes, scenes: 12, val_scenes: 4}", "trainer.steps=1", "trainer.images_per_step=4",
        "trainer.precision=fp32", "trainer.warmup_steps=0", "trainer.validate_images=2", "observers=[]",
    ]  # fmt: skip
    assert main(line) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["started"]["denoiser"]["share"] == 1.0
    assert "recipe.yaml" in (p.name for p in (tmp_path / "run").iterdir())
    assert main(["train", "--init-from", str(tmp_path / "nowhere")]) == 2
    assert "no such file or folder" in capfd.readouterr().err
