"""What is written: every kind of model comes back bit for bit, the layout is the published one, and losses are said."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import yaml
from ldm_plugin_compvis.codec import CompVisCodec
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.layout.state_dict import BUFFERS

from ldm_core.catalog import Catalog
from ldm_core.contracts.codec import ModelWeights
from ldm_core.errors import ConfigError
from ldm_core.model.build import make_first_stage
from ldm_core.nn.torchvision_operators import importable
from ldm_core.recipe.resolve import resolve
from ldm_core.testing.suites.codec import put, random_weights
from ldm_core.weights.complete import recipe_of
from ldm_core.weights.normalization import factor_of, folded
from ldm_core.weights.source import open_source
from ldm_core.weights.write import complete
from ldm_core.weights.write import put as write_files

UNET = {"use": "unet", "channels": 32, "channel_mult": [1, 2], "res_blocks": 1, "attention": [2], "heads": 2}
KL = {"use": "kl_f4", "channels": 32, "channel_mult": [1, 1], "res_blocks": 1, "mid_attention": False}
VQ = {"use": "vq_f4", "channels": 32, "channel_mult": [1, 1], "res_blocks": 1, "codebook_size": 16}
TOKENS = {"width": 32, "layers": 1, "vocab_size": 64, "logits": True}
CLIP = {"use": "clip_text", "name": "text", "width": 64, "layers": 2, "heads": 1, "inner": 128, "vocab_size": 64}


@cache
def catalog() -> Catalog:
    return Catalog.discover()


def plain(stage: Mapping[str, Any], *conditioners: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Plain values of a small model; `more`: whole parts, or fields of its U-Net."""
    parts: dict[str, Any] = {k: more.pop(k) for k in ("schedule", "parameterization", "objective") if k in more}
    unet = {**UNET, **more}
    return {"image_size": 16, "first_stage": stage, "conditioners": list(conditioners), "denoiser": unet, **parts}


KINDS: Mapping[str, Mapping[str, Any]] = {
    "unconditional": plain(VQ, schedule={"use": "vp", "kind": "cosine"}),
    "churches": plain(
        KL, scale_shift_norm=True, resblock_updown=True, schedule="vp_churches", objective={"loss": "l1"}
    ),
    "classes": plain(VQ, {"use": "class_label", "classes": 3, "width": 16, "null_class": False}),
    "text": plain(KL, {"use": "text", **TOKENS, "length": 8}, transformer_depth=2, schedule="vp_sd"),
    "layout": plain(VQ, {"use": "bbox_layout", **TOKENS, "objects": 2, "encode_crop": True}, head_channels=32),
    "layout without crop": plain(VQ, {"use": "bbox_layout", **TOKENS, "objects": 2}),
    "label maps": plain(VQ, {"use": "semantic_map", "classes": 5, "channels": 3}),
    "small pictures": plain(VQ, {"use": "low_resolution"}),
    "masked pictures": plain(VQ, {"use": "masked_image"}),
    "vectors": plain(KL, {"use": "embedding", "width": 16}),
    "Stable Diffusion 1": plain(KL, {**CLIP, "train": False}, schedule="vp_sd"),
    "Stable Diffusion 1, inpainting": plain(
        KL, {**CLIP, "train": False}, {"use": "masked_image", "hole": 0.0, "outside": 0.0}, schedule="vp_sd"
    ),
    "Stable Diffusion 2": plain(
        KL,
        {**CLIP, "train": False, "activation": "gelu", "padding": "!"},
        linear_projection=True,
        head_channels=32,
        parameterization="v",
        schedule={"use": "vp", "beta_start": 0.00085, "beta_end": 0.012, "zero_terminal": True},
    ),
}


@cache
def weights_of(kind: str) -> ModelWeights:
    """A small model of this kind, made once; skips where its conditioner is not installed."""
    uses = [c["use"] for c in KINDS[kind]["conditioners"]]
    if any(use not in catalog().names("conditioner") for use in uses):
        pytest.skip(f"not installed: {', '.join(uses)}")
    if "clip_text" in uses:
        with importable():
            pytest.importorskip("transformers")
    return random_weights(KINDS[kind], catalog=catalog())


def through(weights: ModelWeights, folder: Path, name: str, **options: Any) -> ModelWeights:
    codec = CompVisCodec(CompVisConfig(**options))
    return codec.read(open_source(str(put(codec.write(weights, name).files, folder, name))))


@pytest.mark.parametrize(("kind", "suffix"), [*((kind, "safetensors") for kind in KINDS), ("text", "ckpt")])
def test_every_kind_comes_back(kind: str, suffix: str, tmp_path: Path) -> None:
    weights = weights_of(kind)
    back = through(weights, tmp_path, f"model.{suffix}", write_ema=True)
    assert not back.missing and not back.unexpected
    assert weights.first_stage is not None and weights.model is not None
    assert back.first_stage is not None and back.model is not None
    for before, after in ((weights.first_stage, back.first_stage), (weights.model, back.model)):
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items())
    keys = ("image_size", "first_stage", "denoiser", "schedule", "parameterization", "objective", "conditioners")
    one, other = resolve(weights.recipe, catalog()).plain(), recipe_of(back, catalog()).plain()
    assert {k: one[k] for k in keys} == {k: other[k] for k in keys}


def test_without_its_configuration_a_file_is_as_the_released_ones(tmp_path: Path) -> None:
    """Twelve tables, the scale factor where it is a tensor there, and names under the published prefixes; no name of
    this package's own."""
    weights = weights_of("text")
    codec = CompVisCodec(CompVisConfig(write_ema=True, scale_by_std=True))
    path = put(codec.write(weights, "m.ckpt").files, tmp_path, "m.ckpt")
    stored = torch.load(path, weights_only=True)
    assert stored["global_step"] == 0
    state = stored["state_dict"]
    heads = {key.split(".")[0] for key in state} - set(BUFFERS)
    assert heads == {"model", "model_ema", "first_stage_model", "cond_stage_model", "scale_factor"}
    assert all(state[name].shape == (1000,) and state[name].dtype == torch.float32 for name in BUFFERS)
    assert state["alphas_cumprod"][-1].item() == pytest.approx(4.66010e-3, rel=1e-5)
    assert state["scale_factor"].item() == 0.25 and state["scale_factor"].shape == ()
    trained = [k for k in state if k.startswith("model.diffusion_model.")]
    shadows = ["model_ema." + k.removeprefix("model.").replace(".", "") for k in trained]
    assert all(torch.equal(state[a], state[b]) for a, b in zip(trained, shadows, strict=True))


def test_the_mask_comes_second_in_stable_diffusion(tmp_path: Path) -> None:
    """Released inpainting models read latents, mask, masked latents; the conditioner here gives the mask last."""
    weights = weights_of("Stable Diffusion 1, inpainting")
    path = put(CompVisCodec(CompVisConfig()).write(weights, "m.ckpt").files, tmp_path, "m.ckpt")
    stored = torch.load(path, weights_only=True)["state_dict"]["model.diffusion_model.input_blocks.0.0.weight"]
    assert weights.model is not None
    own = weights.model["denoiser.input_blocks.0.0.weight"]
    assert torch.equal(stored[:, [0, 1, 2, 4, 5, 6, 3]], own) and not torch.equal(stored, own)


def test_the_configuration_beside_a_file() -> None:
    """Published keys and values; in the place of a file's metadata, it tells the same."""
    weights = weights_of("text")
    written = CompVisCodec(CompVisConfig()).write(weights, "m.ckpt")
    params = yaml.safe_load(written.beside["m.yaml"]())["model"]["params"]
    assert (params["linear_start"], params["linear_end"], params["timesteps"]) == (0.00085, 0.012, 1000)
    assert (params["image_size"], params["channels"], params["scale_factor"]) == (8, 3, 0.25)
    assert params["conditioning_key"] == "crossattn" and params["cond_stage_key"] == "caption"
    unet = params["unet_config"]["params"]
    assert (unet["in_channels"], unet["context_dim"], unet["transformer_depth"], unet["num_heads"]) == (3, 32, 2, 2)
    assert params["first_stage_config"]["params"]["ddconfig"]["ch_mult"] == [1, 1]
    assert params["cond_stage_config"]["params"]["max_seq_len"] == 8


def test_what_cannot_be_held_is_refused_at_once() -> None:
    row = {"use": "text", **TOKENS, "length": 8, "heads": 4, "head_width": 32, "mask": True}
    kind = plain(
        {**VQ, "norm_groups": 16, "patch": 2}, row, {"use": "class_label", "classes": 3, "width": 32}, norm_groups=16
    )
    weights = random_weights(kind, catalog=catalog())
    assert weights.first_stage is not None
    stage = {**weights.first_stage, "latent_std": torch.tensor([1.0, 2.0, 3.0])}
    weights = attrs.evolve(weights, first_stage=stage, recipe={**weights.recipe, "adapters": [{"use": "lora"}]})
    with pytest.raises(ConfigError) as raised:
        CompVisCodec(CompVisConfig()).write(weights, "model.bin")
    problems = raised.value.problems
    for words in (
        "model.bin: CompVis files end in .safetensors or .ckpt",
        "first_stage.norm_groups is 16",
        "first_stage.patch is 2",
        "denoiser.norm_groups is 16",
        "a std for each channel",
        "adapters:",
        "masked_image behind it, and not text, class_label",
        "4 heads of 32",
        "attends to the padding",
    ):
        assert any(words in line for line in problems), words
    assert len(problems) == 9


def test_a_map_of_boxes_is_refused() -> None:
    layout = {"use": "bbox_layout", **TOKENS, "objects": 2, "classes": 3, "map_channels": 4}
    weights = random_weights(plain(VQ, layout), catalog=catalog())
    with pytest.raises(ConfigError, match=r"map_channels: CompVis' layouts are tokens alone"):
        CompVisCodec(CompVisConfig()).write(weights, "model.ckpt")


def test_a_bag_of_words_is_refused() -> None:
    bag = {"use": "text", **TOKENS, "length": 8, "layers": 0, "positions": False}
    weights = random_weights(plain(VQ, bag), catalog=catalog())
    with pytest.raises(ConfigError) as raised:
        CompVisCodec(CompVisConfig()).write(weights, "model.ckpt")
    positions, layers = (line for line in raised.value.problems if line.startswith("conditioners."))
    assert "positions is false" in positions and "layers is 0" in layers


def test_an_input_skip_and_an_encoded_small_picture_are_refused() -> None:
    weights = random_weights(plain(VQ, {"use": "low_resolution", "encoded": True}, input_skip=True), catalog=catalog())
    with pytest.raises(ConfigError) as raised:
        CompVisCodec(CompVisConfig()).write(weights, "model.ckpt")
    skip, encoded = raised.value.problems
    assert "denoiser.input_skip is true" in skip and "encoded: CompVis' programs concatenate the small" in encoded


def test_what_is_lost_is_said() -> None:
    notes = CompVisCodec(CompVisConfig(write_ema=True)).write(weights_of("text"), "m.ckpt")
    assert any("tokenizer" in line for line in notes.notes) and any("no average" in line for line in notes.notes)
    assert any("how it is sampled (sampler " in line for line in notes.notes)
    later = CompVisCodec(CompVisConfig()).write(weights_of("Stable Diffusion 2"), "m.ckpt")
    assert any("predicts v" in line for line in later.notes) and any("tables alone" in line for line in later.notes)


@pytest.mark.parametrize("std", [1 / 0.18215, 1 / 0.22765929, 5.4327, 1.0, 0.7313])
def test_a_scale_factor_gives_its_std_back(std: float) -> None:
    value = torch.full((4,), std)
    factor = factor_of(torch.zeros(4), value)
    assert factor is not None and torch.equal(torch.full((4,), 1 / factor), value)
    if std == 1 / 0.18215:
        assert factor == 0.18215
    assert factor_of(torch.tensor([0.0, 0.1, 0.0, 0.0]), value) is None
    assert factor_of(torch.zeros(2), torch.tensor([1.0, 2.0])) is None


@pytest.mark.parametrize("stage", [KL, VQ])
def test_a_normalisation_by_channel_goes_into_the_convolutions(stage: dict[str, Any], tmp_path: Path) -> None:
    """The model sees the same latents and the same pictures come out, though the file knows one factor."""
    weights = random_weights(plain(stage), catalog=catalog())
    assert weights.first_stage is not None
    mean = torch.tensor([0.3, -0.2, 0.1])
    std = torch.tensor([2.0, 3.0, 4.0]) if stage is KL else torch.full((3,), 2.0)
    weights = attrs.evolve(weights, first_stage={**weights.first_stage, "latent_mean": mean, "latent_std": std})
    back = through(weights, tmp_path, "model.safetensors")
    recipe = resolve(weights.recipe, catalog())
    outputs: list[tuple[Any, ...]] = []
    for one in (weights, back):
        module: Any = make_first_stage(recipe, catalog())
        module.load_state_dict(dict(one.first_stage or {}))
        image = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
        with torch.no_grad():
            z = module.latents(module.encode_moments(image))
            outputs.append((z, module.decode(z)))
            if stage is KL:
                spread = module.encode_moments(image)[:, 3:].mul(0.5).exp() / module.latent_std.view(1, -1, 1, 1)
                outputs[-1] += (spread,)
    for a, b in zip(*outputs, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert back.first_stage is not None and torch.equal(back.first_stage["latent_std"], torch.ones(3))
    apart = {**weights.first_stage, "latent_std": torch.tensor([1.0, 2.0, 3.0])} if weights.first_stage else {}
    assert (folded(apart, True) is None) and (stage is VQ or folded(apart, False) is not None)


def test_the_configuration_is_written_beside_and_replaces_no_file_of_others(tmp_path: Path) -> None:
    written = CompVisCodec(CompVisConfig()).write(weights_of("unconditional"), "m.ckpt")
    place = tmp_path / "m.ckpt"
    files = write_files(written, str(place))
    assert [Path(url).name for url, _ in files] == ["m.ckpt", "m.yaml"]
    assert all(Path(url).stat().st_size == size for url, size in files)
    write_files(written, str(place))  # with its file, it is replaced
    place.unlink()
    with pytest.raises(ConfigError, match=r"m\.yaml: is there already"):
        write_files(written, str(place))
    assert not place.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_no_folder_of_the_machine_is_written(suffix: str, tmp_path: Path) -> None:
    """Neither that of the first stage nor of the tokenizer; a file's own name is all that its configuration has."""
    weights, folder = weights_of("text"), tmp_path / "private-folder-of-anna"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nred\n")
    plain = dict(weights.recipe)
    (text,) = plain["conditioners"]
    places = {
        "first_stage": {**plain["first_stage"], "weights": str(folder / "stage")},
        "conditioners": [{**text, "tokenizer": str(folder / "vocab.txt")}],
    }
    named = complete(attrs.evolve(weights, recipe={**plain, **places}), catalog())
    write_files(CompVisCodec(CompVisConfig()).write(named, f"model.{suffix}"), str(tmp_path / f"model.{suffix}"))
    made = [file for file in tmp_path.iterdir() if file.is_file()]
    assert len(made) == 2 and not [file for file in made if folder.name.encode() in file.read_bytes()]
