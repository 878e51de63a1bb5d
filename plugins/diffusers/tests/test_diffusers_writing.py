"""Folders that the codec writes: bit for bit, loaded by diffusers' own classes, and what it says or refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers_models import (
    CATALOG,
    CLIP_STATE,
    KL,
    STABLE,
    TEXT,
    UNCONDITIONAL,
    VOCABULARY,
    VQ,
    count,
    folder_of,
    gap,
    normal,
    weights_of,
    with_words,
)

from ldm_core.contracts import Cond
from ldm_core.contracts.codec import ModelWeights
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.testing.suites.codec import random_weights
from ldm_core.weights.codecs import make_codec, recognise
from ldm_core.weights.complete import build_part
from ldm_core.weights.source import open_source
from ldm_core.weights.write import complete

pytest.importorskip("diffusers")


def same(a: ModelWeights, b: ModelWeights) -> None:
    for one, other in ((a.first_stage, b.first_stage), (a.model, b.model)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.keys() == other.keys()
            assert not [k for k in one if not torch.equal(one[k], other[k])]


@pytest.mark.parametrize("plain", [UNCONDITIONAL, TEXT, STABLE], ids=["unconditional", "text", "stable_diffusion"])
def test_a_model_comes_back_to_the_bit(plain: dict[str, Any], tmp_path: Path) -> None:
    weights = random_weights(plain)
    if plain is not UNCONDITIONAL:
        weights = with_words(weights, CLIP_STATE if plain is STABLE else VOCABULARY)
    folder, _ = folder_of(weights, tmp_path / "pipeline")
    back = weights_of(folder)
    same(weights, back)
    total = sum(v.numel() for k, v in (weights.model or {}).items() if not k.endswith("_extra_state"))
    stage = weights.first_stage or {}
    total += sum(v.numel() for k, v in stage.items() if not k.startswith("latent_"))
    _, _, said = recognise(open_source(str(folder)), CATALOG, "diffusers")
    assert sum(said.parameters.values()) == total


@pytest.mark.parametrize("scale", [0.18215, 0.22765929, 0.9, 1.0, 1 / 3, 7.123456789])
def test_a_scaling_factor_comes_back_to_the_bit(scale: float, tmp_path: Path) -> None:
    plain = {"image_size": 32, "first_stage": VQ}
    weights = random_weights(plain, "first_stage")
    std = torch.full((3,), 1 / scale)
    weights = attrs.evolve(weights, first_stage={**(weights.first_stage or {}), "latent_std": std})
    folder, _ = folder_of(weights, tmp_path / "stage")
    same(weights, weights_of(folder))
    assert json.loads((folder / "config.json").read_text())["scaling_factor"] == pytest.approx(scale, rel=1e-7)


def test_a_shift_of_all_channels_has_a_key(tmp_path: Path) -> None:
    weights = random_weights({"image_size": 64, "first_stage": KL}, "first_stage")
    own = {"latent_mean": torch.full((4,), 0.0609), "latent_std": torch.full((4,), 1 / 1.5305)}
    weights = attrs.evolve(weights, first_stage={**(weights.first_stage or {}), **own})
    folder, _ = folder_of(weights, tmp_path / "stage")
    config = json.loads((folder / "config.json").read_text())
    assert (config["scaling_factor"], config["shift_factor"]) == (1.5305, pytest.approx(0.0609, rel=1e-6))
    same(weights, weights_of(folder))


@pytest.mark.parametrize(
    ("stage", "mean", "std"),
    [(KL, [0.5, -1.0, 0.0, 2.0], [0.3, 3.0, 1.0, 2.0]), (VQ, [0.5, -1.0, 0.25], [0.7, 0.7, 0.7])],
    ids=["kl", "vq"],
)
def test_a_normalisation_by_channel_goes_into_the_weights(
    stage: dict[str, Any], mean: list[float], std: list[float], tmp_path: Path
) -> None:
    """The same normalised moments and images, from a stage whose own normalisation is the identity."""
    weights = random_weights({"image_size": 32, "first_stage": stage}, "first_stage")
    own = {"latent_mean": torch.tensor(mean), "latent_std": torch.tensor(std)}
    weights = attrs.evolve(weights, first_stage={**(weights.first_stage or {}), **own})
    folder, notes = folder_of(weights, tmp_path / "stage")
    assert any("quant_conv" in note for note in notes)
    before: Any = build_part(weights, CATALOG)
    after: Any = build_part(weights_of(folder), CATALOG)
    assert after.latent_mean.tolist() == [0.0] * len(mean) and after.latent_std.tolist() == [1.0] * len(std)
    images, z = normal(2, 3, 32, 32), normal(2, len(mean), *before.latent.shape((32, 32))[1:], seed=2)
    a, b = before.encode_moments(images), after.encode_moments(images)
    assert gap(before.latents(a), after.latents(b)) < 1e-4
    assert gap(before.decode(z), after.decode(z)) < 1e-4
    if stage is KL:  # the posterior's width, too: log variances differ by 2 ln std
        assert gap(a[:, 4:] - b[:, 4:], 2 * torch.tensor(std).log().view(1, -1, 1, 1).expand_as(a[:, 4:])) < 1e-4


def test_stages_of_their_classes(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, VQModel

    for kind, plain in ((AutoencoderKL, KL), (VQModel, VQ)):
        weights = random_weights({"image_size": 32, "first_stage": {**plain, "attention": [2]}}, "first_stage")
        folder, _ = folder_of(weights, tmp_path / kind.__name__)
        theirs, info = kind.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        stage: Any = build_part(weights, CATALOG)
        assert count(stage) == count(theirs)
        raw = normal(2, stage.latent.channels, *stage.latent.shape((32, 32))[1:])
        with torch.no_grad():
            assert gap(stage.decode(raw / 4.0), theirs.decode(raw).sample) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"scale_shift_norm": True},
        {"resblock_updown": True},
        {"new_attention_order": True, "head_channels": 0, "heads": 2, "attention": []},
        {"head_channels": 0, "heads": 1, "attention": [1, 2]},
    ],
    ids=["scale_shift", "resnet_resampling", "by_role", "one_head"],
)
def test_a_lone_denoiser_of_their_class(change: dict[str, Any], tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    plain = {**UNCONDITIONAL, "denoiser": {**UNCONDITIONAL["denoiser"], **change}}
    weights = random_weights(plain, "denoiser")
    folder, _ = folder_of(weights, tmp_path / "unet")
    theirs = UNet2DModel.from_pretrained(folder).eval()
    assert theirs.config.sample_size == 8
    unet: Any = build_part(weights, CATALOG)
    x, t = normal(2, 3, 8, 8), torch.tensor([7, 421])
    with torch.no_grad():
        assert gap(unet(x, t.float(), Cond()), theirs(x, t).sample) < 1e-4
    assert count(unet) == count(theirs)


def unet(**values: Any) -> dict[str, Any]:
    return {"denoiser": {**UNCONDITIONAL["denoiser"], **values}}


def text(**values: Any) -> dict[str, Any]:
    return {"conditioners": [{**TEXT["conditioners"][0], **values}]}


REFUSED = [
    (UNCONDITIONAL, {"first_stage": "identity", "image_size": 16}, "first_stage 'identity'"),
    (UNCONDITIONAL, {"image_size": [32, 64]}, "square"),
    (UNCONDITIONAL, {"conditioners": [{"use": "class_label", "classes": 4}]}, "conditioners class_label"),
    (UNCONDITIONAL, unet(head_channels=0, heads=4, attention=[1, 2]), "denoiser.heads is 4"),
    (UNCONDITIONAL, unet(input_skip=True), "denoiser.input_skip is true"),
    (UNCONDITIONAL, unet(channel_mult=[2, 2]), "denoiser.channel_mult begins with 2"),
    (UNCONDITIONAL, {"first_stage": {**VQ, "channel_mult": [2, 2, 2]}}, "first_stage.channel_mult begins with 2"),
    (UNCONDITIONAL, {"first_stage": {**VQ, "patch": 2}}, "first_stage.patch is 2"),
    (TEXT, text(mask=True), "mask is true"),
    (TEXT, text(length=20), "length is 20"),
    (TEXT, text(positions=False), "positions is false"),
    (TEXT, text(layers=0), "layers is 0"),
    (TEXT, unet(resblock_updown=True, attention=[1]), "resblock_updown"),
]


@pytest.mark.parametrize(("base", "change", "named"), REFUSED, ids=[row[2].replace(" ", "_") for row in REFUSED])
def test_what_their_pipelines_cannot_hold(
    base: dict[str, Any], change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    weights = random_weights({**base, **change})
    with pytest.raises(ConfigError, match="(?i)" + named.replace("[", r"\[")):
        folder_of(weights, tmp_path / "pipeline")


def test_codes_whose_channels_differ_are_refused(tmp_path: Path) -> None:
    weights = random_weights(UNCONDITIONAL)
    own = {**(weights.first_stage or {}), "latent_std": torch.tensor([1.0, 2.0, 1.0])}
    with pytest.raises(ConfigError, match="which is nearest"):
        folder_of(attrs.evolve(weights, first_stage=own), tmp_path / "pipeline")


def test_a_file_is_no_folder() -> None:
    weights = random_weights(UNCONDITIONAL)
    with pytest.raises(ConfigError, match="a folder"):
        make_codec("diffusers", CATALOG).write(weights, "model.safetensors")


def test_a_conditioner_by_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="no conditioner by itself"):
        make_codec("diffusers", CATALOG).write(random_weights(TEXT, "conditioner"), "text")


def test_weights_of_another_recipe(tmp_path: Path) -> None:
    weights = random_weights(UNCONDITIONAL)
    model = {k: v for k, v in (weights.model or {}).items() if k != "denoiser.time_embed.0.bias"}
    with pytest.raises(CheckpointError, match=r"time_embed\.0\.bias is missing"):
        folder_of(attrs.evolve(weights, model=model), tmp_path / "pipeline")


def test_what_a_folder_has_no_place_for_is_said(tmp_path: Path) -> None:
    plain = {
        **TEXT,
        "first_stage": {**KL, "channel_mult": [1, 2, 2]},
        "sampler": {"use": "ddim", "eta": 0.5},
        "sample": {"project_x0": True},
        "time_grid": "quad",
        **text(logits=False),
    }
    weights = with_words(random_weights(plain), b"\0sentencepiece")
    folder, notes = folder_of(weights, tmp_path / "pipeline")
    said = "\n".join(notes)
    for word in ("guidance_scale=3", "eta=0.5", "project_x0", "'quad'", "SentencePiece", "to_logits", "height=128"):
        assert word in said, word
    assert json.loads((folder / "model_index.json").read_text())["tokenizer"] == [None, None]


def test_the_index_comes_last() -> None:
    """It makes the rest valid: whoever is interrupted before leaves no folder that passes for whole."""
    files = make_codec("diffusers", CATALOG).write(random_weights(UNCONDITIONAL), "x").files
    assert list(files)[-1] == "model_index.json"


def test_recognising_needs_no_torch(tmp_path: Path) -> None:
    folder, _ = folder_of(with_words(random_weights(STABLE), CLIP_STATE), tmp_path / "pipeline")
    code = (
        "import sys\n"
        "from ldm_core.catalog import Catalog\n"
        "from ldm_core.weights.codecs import recognise\n"
        "from ldm_core.weights.source import open_source\n"
        "found = recognise(open_source(sys.argv[1]), Catalog.discover())\n"
        "print(found[0], found[2].what, sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))\n"
    )
    line = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "diffusers Stable Diffusion, text to image (StableDiffusionPipeline) []"


def test_a_tokenizer_that_is_named_goes_with_weights_that_lack_theirs(tmp_path: Path) -> None:
    whole = with_words(random_weights(STABLE), CLIP_STATE)
    folder, _ = folder_of(whole, tmp_path / "whole")
    (text,) = STABLE["conditioners"]
    lacking = with_words(random_weights({**STABLE, "conditioners": [{**text, "tokenizer": ""}]}), b"")
    with pytest.raises(CheckpointError, match=r"conditioners\.text\.tokenizer=FOLDER"):
        folder_of(complete(lacking, CATALOG), tmp_path / "none")
    named = {**lacking.recipe, "conditioners": [{**text, "tokenizer": str(folder / "tokenizer")}]}
    again, _ = folder_of(complete(attrs.evolve(lacking, recipe=named), CATALOG), tmp_path / "again")
    for name in ("vocab.json", "merges.txt"):
        assert (again / "tokenizer" / name).read_bytes() == (folder / "tokenizer" / name).read_bytes()
    kept = complete(attrs.evolve(whole, recipe=named), CATALOG).model
    assert kept is not None and bytes(kept["conditioners.text._extra_state"].tolist()) == CLIP_STATE


def test_no_folder_of_the_machine_is_written(tmp_path: Path) -> None:
    """Neither that of the first stage nor of the tokenizer."""
    weights, place = with_words(random_weights(TEXT), VOCABULARY), tmp_path / "private-folder-of-anna"
    place.mkdir()
    (place / "vocab.txt").write_bytes(VOCABULARY)
    (text,) = TEXT["conditioners"]
    places = {
        "first_stage": {**KL, "weights": str(place / "stage")},
        "conditioners": [{**text, "tokenizer": str(place / "vocab.txt")}],
    }
    named = complete(attrs.evolve(weights, recipe={**weights.recipe, **places}), CATALOG)
    folder, notes = folder_of(named, tmp_path / "pipeline")
    made = [file for file in folder.rglob("*") if file.is_file()]
    assert len(made) >= 9 and not [file for file in made if place.name.encode() in file.read_bytes()]
    assert place.name not in " ".join(notes)
