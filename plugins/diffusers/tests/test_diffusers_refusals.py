"""Folders that are damaged, hostile or beyond our parts: named errors, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers_models import CATALOG, STABLE, TEXT, UNCONDITIONAL, VOCABULARY, folder_of, weights_of, with_words
from diffusers_models import CLIP_STATE as CLIP
from safetensors.torch import load_file, save_file

from ldm_core.errors import CheckpointError, ConfigError, LDMError
from ldm_core.testing.suites.codec import random_weights
from ldm_core.weights.codecs import recognise
from ldm_core.weights.source import open_source

TINY = {"channels": 8, "norm_groups": 4, "res_blocks": 1, "channel_mult": [1, 2]}


def _tiny(recipe: dict[str, Any], **conditioner: Any) -> dict[str, Any]:
    out = {
        **recipe,
        "image_size": 16,
        "first_stage": {"use": recipe["first_stage"]["use"], **TINY},
        "denoiser": {**TINY, "attention": [2], "heads": 2},
    }
    if conditioner:
        out["conditioners"] = [{**recipe["conditioners"][0], "width": 8, "layers": 1, **conditioner}]
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    stage = {"use": "vq_ae", "codebook_size": 8, **TINY}
    models = {
        "plain": random_weights({**_tiny(UNCONDITIONAL), "first_stage": stage}),
        "text": with_words(random_weights(_tiny(TEXT, head_width=4)), VOCABULARY),
        "stable": with_words(random_weights(_tiny(STABLE, inner=16)), CLIP),
    }
    return {name: folder_of(weights, root / name)[0] for name, weights in models.items()}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / name))


def changed(folder: Path, file: str, **values: Any) -> Path:
    path = folder / file
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, **values}))
    return folder


UNEXPRESSED = [
    ("plain", "unet", {"act_fn": "gelu"}, "act_fn is 'gelu'"),
    ("plain", "unet", {"norm_eps": 1e-6}, "norm_eps is 1e-06"),
    ("plain", "unet", {"flip_sin_to_cos": False}, "flip_sin_to_cos is False"),
    ("plain", "unet", {"freq_shift": 1}, "freq_shift is 1"),
    ("plain", "unet", {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
    ("plain", "unet", {"downsample_padding": 0}, "downsample_padding is 0"),
    ("plain", "unet", {"num_class_embeds": 10}, "num_class_embeds is 10"),
    ("plain", "unet", {"add_attention": False}, "add_attention is False"),
    ("plain", "unet", {"block_out_channels": [8, 12]}, "12 is no multiple"),
    ("plain", "unet", {"block_out_channels": [8, -16]}, "block_out_channels"),
    ("plain", "unet", {"block_out_channels": "8"}, "block_out_channels is '8'"),
    ("plain", "unet", {"layers_per_block": 10**9}, "layers_per_block"),
    ("plain", "unet", {"layers_per_block": [1, 2]}, "layers_per_block is [1, 2]"),
    ("plain", "unet", {"down_block_types": ["DownBlock2D", "KDownBlock2D"]}, "'KDownBlock2D'"),
    ("plain", "unet", {"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "up_block_types"),
    ("plain", "unet", {"out_channels": 6}, "out_channels is 6"),
    ("plain", "unet", {"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups is None"),
    ("plain", "unet", {"attention_head_dim": 5}, "attention_head_dim is 5"),
    ("plain", "unet", {"a_new_key": 0.5}, "unknown key a_new_key with value 0.5"),
    ("plain", "unet", {"sample_size": -8}, "sample_size is -8"),
    ("plain", "unet", {"_class_name": "UNet2DConditionModel"}, "_class_name is 'UNet2DConditionModel'"),
    ("plain", "vqvae", {"_class_name": ["VQModel"]}, "_class_name is ['VQModel']"),
    ("plain", "vqvae", {"norm_type": "spatial"}, "norm_type is 'spatial'"),
    ("plain", "vqvae", {"vq_embed_dim": 5}, "vq_embed_dim is 5"),
    ("plain", "vqvae", {"scaling_factor": 0}, "scaling_factor is 0"),
    ("plain", "vqvae", {"in_channels": 4}, "in_channels is 4"),
    ("text", "unet", {"only_cross_attention": True}, "only_cross_attention is True"),
    ("text", "unet", {"attention_head_dim": [1, 3]}, "attention_head_dim is [1, 3]"),
    ("text", "unet", {"transformer_layers_per_block": [1, 2]}, "transformer_layers_per_block is [1, 2]"),
    ("text", "unet", {"cross_attention_dim": [8, 16]}, "cross_attention_dim is [8, 16]"),
    ("text", "unet", {"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
    ("text", "unet", {"mid_block_type": None}, "mid_block_type is None"),
    ("text", "unet", {"encoder_hid_dim": 4}, "encoder_hid_dim is 4"),
    ("text", "vqvae", {"latents_mean": [0.0] * 4}, "latents_mean"),
    ("text", "bert", {"activation_function": "relu"}, "activation_function is 'relu'"),
    ("text", "bert", {"encoder_ffn_dim": 8}, "encoder_ffn_dim is 8"),
    ("stable", "text_encoder", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ("stable", "text_encoder", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
]


@pytest.mark.parametrize(("model", "part", "values", "named"), UNEXPRESSED)
def test_a_value_beyond_our_parts_is_named(
    model: str, part: str, values: dict[str, Any], named: str, copied: Callable[[str], Path]
) -> None:
    folder = changed(copied(model), f"{part}/config.json", **values)
    with pytest.raises(ConfigError) as raised:
        weights_of(folder)
    assert named in str(raised.value) and part in str(raised.value)


def test_all_that_is_wrong_is_said_at_once(copied: Callable[[str], Path]) -> None:
    folder = changed(copied("plain"), "unet/config.json", act_fn="gelu", freq_shift=1)
    changed(folder, "vqvae/config.json", norm_type="spatial")
    changed(folder, "scheduler/scheduler_config.json", prediction_type="flow")
    with pytest.raises(ConfigError) as raised:
        weights_of(folder)
    assert len(raised.value.problems) == 4


def test_what_changes_nothing_may_be_there(copied: Callable[[str], Path]) -> None:
    folder = changed(copied("text"), "unet/config.json", upcast_attention=True, a_new_key=None, _anything=3)
    weights_of(changed(folder, "vqvae/config.json", force_upcast=True))


@pytest.mark.parametrize(
    "file", ["unet/config.json", "vqvae/config.json", "unet/diffusion_pytorch_model.safetensors", "bert/config.json",
             "scheduler/scheduler_config.json", "tokenizer/vocab.txt", "bert/model.safetensors"]
)  # fmt: skip
def test_a_missing_file_is_named(file: str, copied: Callable[[str], Path]) -> None:
    folder = copied("text")
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=file.partition("/")[0]):
        weights_of(folder)


@pytest.mark.parametrize(
    ("values", "error", "named"),
    [
        ({"_class_name": "StableDiffusionXLPipeline"}, ConfigError, "StableDiffusionXLPipeline"),
        ({"_class_name": ["my_pipeline", "Mine"]}, ConfigError, "my_pipeline"),
        ({"unet": None}, CheckpointError, "unet is None"),
        ({"unet": [None, None]}, CheckpointError, "unet"),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, ConfigError, "unknown part controlnet"),
    ],
)
def test_other_pipelines(
    values: dict[str, Any], error: type[LDMError], named: str, copied: Callable[[str], Path]
) -> None:
    folder = changed(copied("stable"), "model_index.json", **values)
    with pytest.raises(error, match=named):
        weights_of(folder)


def test_a_safety_checker_is_left_out_and_said(copied: Callable[[str], Path]) -> None:
    folder = changed(copied("stable"), "model_index.json", safety_checker=["stable_diffusion", "Checker"])
    assert any("safety_checker is left out" in note for note in weights_of(folder).notes)


def sharded(folder: Path, shards: int = 2) -> tuple[Path, dict[str, Any]]:
    """The U-Net's weights in several files with an index."""
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    table: dict[str, str] = {}
    for number in range(shards):
        name = f"diffusion_pytorch_model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, folder / "unet" / name)
        table |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": table}
    path = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path, index


def same_model(folder: Path, other: Path) -> None:
    a, b = weights_of(folder).model, weights_of(other).model
    assert a is not None and b is not None and a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_weights_in_several_files(folders: dict[str, Path], copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    sharded(folder)
    same_model(folder, folders["plain"])


@pytest.mark.parametrize("name", ["../plain/secret.safetensors", "/etc/passwd", "..", "sub/x.safetensors", 3, ""])
def test_an_index_that_leads_elsewhere(name: Any, copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    path, index = sharded(folder)
    first = next(iter(index["weight_map"]))
    path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], first: name}}))
    with pytest.raises(CheckpointError, match="index"):
        weights_of(folder)


def test_an_index_of_weights_that_are_nowhere(copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    path, index = sharded(folder)
    shard = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], "more.weight": shard}}))
    with pytest.raises(CheckpointError, match=r"more\.weight"):
        weights_of(folder)


def test_variants_and_pickles(folders: dict[str, Path], copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(plain), folder / "unet" / "diffusion_pytorch_model.bin")
    plain.unlink()
    same_model(folder, folders["plain"])
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()
    half = {k: v.half() for k, v in load_file(folders["plain"] / "unet" / plain.name).items()}
    save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    weights = weights_of(folder)
    assert weights.model is not None and weights.model["denoiser.out.2.weight"].dtype == torch.float16
    assert any("variant fp16" in note for note in weights.notes)
    save_file(half, folder / "unet" / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(ConfigError, match=r"codec\.variant to one of: bf16, fp16"):
        weights_of(folder)


def test_names_of_the_first_versions(folders: dict[str, Path], copied: Callable[[str], Path]) -> None:
    """Attention names before 0.14, block types before 0.3."""
    folder = copied("plain")
    for part in ("unet", "vqvae"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        old = {}
        for name, tensor in load_file(path).items():
            for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                name = name.replace(f".{new}.", f".{before}.")
            old[name] = tensor
        assert any(".proj_attn." in name for name in old)
        save_file(old, path)
    config = json.loads((folder / "unet" / "config.json").read_text())
    types = {key: ["UNetRes" + name for name in config[key]] for key in ("down_block_types", "up_block_types")}
    changed(folder, "unet/config.json", **types)
    same_model(folder, folders["plain"])


def test_weights_of_another_config(copied: Callable[[str], Path]) -> None:
    folder = changed(copied("plain"), "unet/config.json", block_out_channels=[16, 32])
    with pytest.raises(CheckpointError, match="do not belong together"):
        weights_of(folder)


def test_parts_that_do_not_fit(copied: Callable[[str], Path], folders: dict[str, Path]) -> None:
    folder = copied("text")
    shutil.rmtree(folder / "vqvae")
    shutil.copytree(folders["plain"] / "vqvae", folder / "vqvae")
    changed(folder, "model_index.json", vqvae=["diffusers", "VQModel"])
    with pytest.raises(CheckpointError, match="in_channels 4 and out_channels 4, the latents 3"):
        weights_of(folder)


def test_weights_that_lack_or_are_too_many(copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["extra.weight"] = tensors.pop("conv_in.bias")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"missing \(e\.g\. unet/conv_in\.bias\).*unet/extra\.weight"):
        weights_of(folder)


def test_it_is_silent_about_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "model_type": "bert"}))
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="nothing that codec 'diffusers' knows"):
        recognise(open_source(str(tmp_path)), CATALOG, "diffusers")


def test_a_scaling_factor_from_before_there_was_one(copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    path = folder / "vqvae" / "config.json"
    plain = {k: v for k, v in json.loads(path.read_text()).items() if k != "scaling_factor"}
    path.write_text(json.dumps(plain))
    weights = weights_of(folder)
    assert weights.first_stage is not None and weights.first_stage["latent_std"].tolist() == [1.0] * 3
    assert any("6725" in note for note in weights.notes)
