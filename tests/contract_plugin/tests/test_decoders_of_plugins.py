"""A decoder of a third party in the place of the first stage's: on request, on the way, and refused where it is not
the latents' own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import yaml
from class_model import WANTED, drawn, recipe
from ldm_contract_plugin.optional.config import FlatColoursConfig
from ldm_contract_plugin.optional.flat_colours import FlatColours
from numpy.typing import NDArray
from one_thread import each_module as _one_thread  # noqa: F401
from PIL import Image
from safetensors.torch import save_file
from together import together

import ldm_core
from ldm_core.catalog.release import VERSION
from ldm_core.cli import main
from ldm_core.contracts import LatentSpec, Site
from ldm_core.errors import CheckpointError, ConfigError, LDMError
from ldm_core.recipe import artifacts
from ldm_core.sampling.pieces.decoders import decoder_metadata
from ldm_core.sampling.pipeline import Pipeline

LATENT = LatentSpec(4, (4, 4))
RECIPE = recipe(attention=[2], steps=2) | {
    "first_stage": {"use": "patches", "channels": 4, "side": 4},
    "first_stage_trainer": {"steps": 2, "images_per_step": 4, "statistics_images": 4},
    "sample": {"steps": 2, "images": 2, "tile": 0},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on patches, trained by the command line, with a decoder of a third party beside it."""
    place = tmp_path_factory.mktemp("runs")
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    assert main(["--recipe", str(place / "recipe.yaml"), "--out", str(place / "base"), "--quiet"]) == 0
    written(place / "base" / "decoders" / "flat.safetensors", stage_of(place / "base"))
    return place / "base"


@pytest.fixture(scope="module")
def plain(base: Path) -> Pipeline:
    return ldm_core.load(str(base), device="cpu")


def stage_of(run: Path) -> str:
    return artifacts.sha256(str(run / "first_stage.safetensors"))


def written(file: Path, first_stage: str, *, latent: LatentSpec = LATENT, **more: Any) -> Path:
    """A decoder's file, of fixed colours."""
    torch.manual_seed(3)
    made = FlatColours(FlatColoursConfig(contrast=0.5), Site(size=(16, 16), latent=LATENT))
    told = decoder_metadata(
        "flat_colours", made.config, {"ldm-core": VERSION}, first_stage=first_stage, latent=latent, **more
    )
    file.parent.mkdir(exist_ok=True)
    save_file(made.state_dict(), file, metadata=told)
    return file


def test_pictures_are_those_of_the_named_decoder(base: Path, plain: Pipeline) -> None:
    other = plain.with_settings(["sample.decoder=flat"])
    mine, theirs = (p.sample(inputs=WANTED, steps=3, seed=5) for p in (plain, other))
    for one, same in zip(theirs, mine, strict=True):
        assert one.latents is not None and same.latents is not None and np.array_equal(one.latents, same.latents)
        cells = one.image.reshape(3, 4, 4, 4, 4).astype(int)
        assert not np.ptp(cells, axis=(2, 4)).any() and np.ptp(same.image.reshape(3, 4, 4, 4, 4), axis=(2, 4)).any()
        assert one.metadata["decoder"] == "flat_colours" and "decoder" not in same.metadata
        assert one.metadata["decoder_sha256"] == artifacts.sha256(str(base / "decoders" / "flat.safetensors"))
    latents = np.stack([one.latents for one in theirs if one.latents is not None])
    assert np.array_equal(other.decode(latents), np.stack([s.image for s in theirs]))


def test_the_command_line_makes_the_same_pictures(base: Path, plain: Pipeline, tmp_path: Path) -> None:
    words = ["sample", str(base), "--class", "1", "--sample-steps", "3", "--seed", "5", "--device", "cpu", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "one"), "sample.decoder=flat"]) == 0
    (file,) = sorted((tmp_path / "one").glob("*.png"))[:1]
    picture = Image.open(file)
    assert picture.info["decoder"] == "flat_colours"
    other = plain.with_settings({"sample": {"decoder": str(base / "decoders" / "flat.safetensors")}})
    (found,) = other.sample(inputs=WANTED[:1], steps=3, seed=5)
    assert np.array_equal(np.asarray(picture.convert("RGB")).transpose(2, 0, 1), found.image)


def test_threads_share_a_pipeline_with_another_decoder(plain: Pipeline) -> None:
    pipelines = [plain, plain.with_settings(["sample.decoder=flat"])] * 2

    def images(p: Pipeline) -> NDArray[np.uint8]:
        return np.stack([s.image for s in p.sample(inputs=WANTED, steps=3, seed=5)])

    alone = [images(p) for p in pipelines]
    made = together([partial(images, p) for p in pipelines])
    assert all(np.array_equal(a, b) for a, b in zip(alone, made, strict=True))
    assert not np.array_equal(made[0], made[1])


def test_the_callback_sees_pictures_on_the_way_and_changes_nothing(plain: Pipeline) -> None:
    before, seen = drawn(plain), []
    watched = plain.with_settings(["sample.preview_decoder=flat"])
    again = drawn(watched, callback=lambda progress: seen.append(progress.pictures()))
    assert np.array_equal(before, again)
    assert len(seen) == 5 and all(p.shape == (2, 3, 16, 16) and p.dtype == np.uint8 for p in seen)
    assert not np.ptp(seen[-1].reshape(2, 3, 4, 4, 4, 4).astype(int), axis=(3, 5)).any()
    by_stage: list[np.ndarray] = []
    made = plain.sample(inputs=WANTED, steps=5, seed=5, callback=lambda p: by_stage.append(p.pictures()))
    assert np.array_equal(by_stage[-1], np.stack([one.image for one in made]))  # the last estimate is the sample
    with pytest.raises(ValueError, match="before the first step"):
        ldm_core.sampling.result.Progress(0, 1, 0, 1).pictures()


def test_previews_of_a_training_are_drawn_by_it(base: Path, tmp_path: Path) -> None:
    plain: dict[str, Any] = RECIPE | {"first_stage": str(base), "seed": 1}
    plain["trainer"] = {**plain["trainer"], "preview_every": 2}
    runs = {"stage": "", "flat": str(base / "decoders" / "flat.safetensors")}
    for name, decoder in runs.items():
        sample = {**plain["sample"], "preview_decoder": decoder}
        ldm_core.train(plain | {"sample": sample}, out=tmp_path / name)
    sheets = [(tmp_path / name / "previews" / "samples-00000002.png").read_bytes() for name in runs]
    assert sheets[0] != sheets[1]
    weights = [artifacts.shapes(str(tmp_path / name / "model.safetensors")) for name in runs]
    models = [ldm_core.load(str(tmp_path / name), device="cpu").model.state_dict() for name in runs]
    assert weights[0] == weights[1] and all(torch.equal(v, models[1][k]) for k, v in models[0].items())
    with pytest.raises(CheckpointError, match="no decoder 'tiny'"):
        ldm_core.train(plain | {"sample": {**plain["sample"], "preview_decoder": "tiny"}}, out=tmp_path / "none")


def refused(pipeline: Pipeline, file: Path, kind: type[LDMError], words: str) -> None:
    other = pipeline.with_settings({"sample": {"decoder": str(file)}})
    with pytest.raises(kind, match=words) as error:
        other.sample(inputs=WANTED, steps=1)
    assert "\n" not in str(error.value).strip()


def test_other_decoders_are_refused(base: Path, plain: Pipeline, tmp_path: Path) -> None:
    own = stage_of(base)
    refused(plain, written(tmp_path / "other.safetensors", "0" * 64), CheckpointError, "latents of another first stage")
    refused(plain, written(tmp_path / "none.safetensors", ""), CheckpointError, "does not name the first stage")
    eight = LatentSpec(4, (8, 8))
    refused(plain, written(tmp_path / "eight.safetensors", own, latent=eight), CheckpointError, "at stride")
    grey = written(tmp_path / "grey.safetensors", own, image_channels=1)
    refused(plain, grey, ConfigError, "pictures of 1 channels, here they have 3")
    refused(plain, base / "model.safetensors", CheckpointError, "holds a model, not a decoder")
    with pytest.raises(CheckpointError, match=r"no decoder 'flot' in .*there are flat"):
        plain.with_settings(["sample.decoder=flot"]).sample(inputs=WANTED)
    alone = attrs.evolve(plain.recipe, sample=attrs.evolve(plain.recipe.sample, decoder="flat"))
    made = Pipeline(alone, plain.stage, plain.model, plain.catalog)
    with pytest.raises(CheckpointError, match="this model's folder"):
        made.sample(inputs=WANTED)


def test_a_file_names_no_decoder_of_its_own(base: Path, tmp_path: Path) -> None:
    """The place of a decoder in a recipe stays with the run: loaded weights decode by their first stage."""
    sample = {**RECIPE["sample"], "decoder": str(base / "decoders" / "flat.safetensors")}
    ldm_core.train(RECIPE | {"first_stage": str(base), "sample": sample}, out=tmp_path / "run")
    assert ldm_core.load(str(tmp_path / "run"), device="cpu").recipe.sample.decoder == ""
