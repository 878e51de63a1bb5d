"""The training of a decoder alone: encoder, codes and latents stay, and models of the old stage take the new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from class_model import WANTED, recipe
from one_thread import each_module as _one_thread  # noqa: F401
from safetensors.torch import load_file

import ldm_core
from ldm_core.cli import main
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.recipe import artifacts

SMALL = {"channels": 8, "channel_mult": [1, 2], "res_blocks": 1, "norm_groups": 4, "z_channels": 2}
STAGES: dict[str, dict[str, Any]] = {
    "kl_ae": {"use": "kl_ae", **SMALL, "mid_attention": False},
    "vq_ae": {"use": "vq_ae", **SMALL, "mid_attention": False, "codebook_size": 16},
}
ADVERSARIAL = {
    "use": "adversarial",
    "adversarial_start": 0,
    "discriminator_layers": 1,
    "discriminator_width": 8,
    "perceptual": {"use": "none"},
}
ENCODER = ("encoder.", "quant_conv.", "quantize.", "latent_")


def plain(stage: str, **trainer: Any) -> dict[str, Any]:
    """The recipe of a small stage and a model on its latents."""
    own = {"steps": 2, "images_per_step": 4, "statistics_images": 4, "validate_images": 4, "lr": 1e-2, **trainer}
    return recipe(attention=[], steps=1) | {
        "first_stage": STAGES[stage],
        "stage_objective": ADVERSARIAL,
        "first_stage_trainer": own,
        "sample": {"steps": 2, "images": 1},
    }


@pytest.fixture(scope="module", params=sorted(STAGES))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on latents of factor 2, and the stage's decoder trained further for two steps beside it."""
    place = tmp_path_factory.mktemp(request.param)
    (place / "recipe.yaml").write_text(yaml.safe_dump(plain(request.param)))
    assert main(["--recipe", str(place / "recipe.yaml"), "--out", str(place / "base"), "--quiet"]) == 0
    further(place / "base", place / "sharp", request.param)
    return place


def kind_of(base: Path) -> str:
    return base.name.rstrip("0123456789")


def further(source: Path, out: Path, stage: str, *, steps: int = 2, **changes: Any) -> None:
    plain_recipe = plain(stage, train="decoder", init_from=str(source), steps=steps, **changes)
    ldm_core.train(plain_recipe, out=out, until="first_stage")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "first_stage.safetensors")
    return found


def test_the_decoder_alone_has_changed(base: Path) -> None:
    before, after = tensors(base / "base"), tensors(base / "sharp")
    assert before.keys() == after.keys()
    kept = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert kept == {name for name in before if name.startswith(ENCODER)}
    assert any(name.startswith("decoder.") for name in before.keys() - kept)
    header = artifacts.read_header(str(base / "sharp" / "first_stage.safetensors"), "first_stage")
    assert header.extra["latents_of"] == [artifacts.sha256(str(base / "base" / "first_stage.safetensors"))]


def test_models_of_the_old_stage_take_the_new_decoder(base: Path) -> None:
    own = ldm_core.load(str(base / "base"), device="cpu")
    sharp = own.with_settings({"sample": {"decoder": str(base / "sharp")}})
    (mine,), (theirs,) = (p.sample(inputs=WANTED[:1], steps=2, seed=1) for p in (sharp, own))
    assert mine.latents is not None and theirs.latents is not None
    assert np.array_equal(mine.latents, theirs.latents) and not np.array_equal(mine.image, theirs.image)
    stage: Any = own.stage
    stage.load_state_dict(tensors(base / "sharp"))
    with torch.no_grad():
        shown = (stage.decode(torch.as_tensor(mine.latents)[None])[0].clamp(-1, 1) + 1) * 127.5
    assert np.array_equal(shown.round().byte().numpy(), mine.image)
    file = base / "sharp" / "first_stage.safetensors"
    assert mine.metadata["decoder"] == STAGES[kind_of(base)]["use"]
    assert mine.metadata["decoder_sha256"] == artifacts.sha256(str(file))


def test_a_second_training_still_decodes_the_first_latents(base: Path, tmp_path: Path) -> None:
    stage = kind_of(base)
    further(base / "sharp", tmp_path / "again", stage)
    pipeline = ldm_core.load(str(base / "base"), device="cpu")
    for name in ("again", "sharp"):
        place = tmp_path / name if name == "again" else base / name
        pipeline.with_settings({"sample": {"decoder": str(place)}}).decode(torch.zeros(1, 2, 8, 8))
    ldm_core.train(plain(stage, train="all", init_from=str(base / "base")), out=tmp_path / "all", until="first_stage")
    other = pipeline.with_settings({"sample": {"decoder": str(tmp_path / "all")}})
    with pytest.raises(CheckpointError, match=r"latents of another first stage .*first_stage_trainer\.train=decoder"):
        other.decode(torch.zeros(1, 2, 8, 8))


def test_an_interrupted_training_goes_on_bit_for_bit(base: Path, tmp_path: Path) -> None:
    stage = kind_of(base)
    words = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 9}
    further(base / "base", tmp_path / "whole", stage, **words)
    asked = plain(stage, train="decoder", init_from=str(base / "base"), **words)
    ldm_core.train(asked, out=tmp_path / "cut", until="first_stage", callback=lambda progress: progress.step < 2)
    assert not (tmp_path / "cut" / "first_stage.safetensors").exists()
    further(base / "base", tmp_path / "cut", stage, **words)
    whole, cut = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_settings_that_would_move_the_latents(base: Path, tmp_path: Path) -> None:
    stage = kind_of(base)
    with pytest.raises(ConfigError, match=r"first_stage_trainer\.init_from=RUN"):
        ldm_core.train(plain(stage, train="decoder"), out=tmp_path / "a", until="first_stage")
    other = plain(stage, train="decoder", init_from=str(base / "base"))
    other["first_stage"] = {**other["first_stage"], "res_blocks": 2}
    with pytest.raises(ConfigError, match=r"wants all weights .* lacks \w+"):
        ldm_core.train(other, out=tmp_path / "b", until="first_stage")
    if stage == "vq_ae":
        reviving = plain(stage, train="decoder", init_from=str(base / "base"))
        reviving["stage_objective"] = {**ADVERSARIAL, "revive_every": 1}
        with pytest.raises(ConfigError, match="revive_every: the codes are kept"):
            ldm_core.train(reviving, out=tmp_path / "c", until="first_stage")


def test_a_file_with_a_false_list_is_refused(base: Path, tmp_path: Path) -> None:
    """The list of stages is text of others: any form of it is one error or is not believed."""
    source = base / "sharp" / "first_stage.safetensors"
    content = source.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    pipeline = ldm_core.load(str(base / "base"), device="cpu")
    for value in ("x", 7, [7], [["\x1b[2J"]], {"a": 1}, None):
        body = json.loads(header["__metadata__"]["ldm_core"])
        body["latents_of"] = value
        text = json.dumps({**header, "__metadata__": {"ldm_core": json.dumps(body)}}).encode()
        file = tmp_path / "first_stage.safetensors"
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        with pytest.raises(CheckpointError, match="another first stage") as error:
            pipeline.with_settings({"sample": {"decoder": str(file)}}).decode(torch.zeros(1, 2, 8, 8))
        assert "\x1b" not in str(error.value)
