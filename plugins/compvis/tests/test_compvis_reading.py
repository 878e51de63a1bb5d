"""Files of the released layout through the codec: golden outputs, averages, spare and foreign names, configurations."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from compvis_files import beta_buffers, fill, ramp, saved, statistics
from ldm_plugin_compvis.codec import CompVisCodec
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.layout import clip as clip_keys
from ldm_plugin_compvis.layout import expected
from ldm_plugin_compvis.layout.state_dict import averaged
from torch import Tensor

from ldm_core.builtin.unet.config import PRESETS
from ldm_core.catalog import Catalog
from ldm_core.contracts import Cond, CondSpec
from ldm_core.contracts.codec import ModelWeights
from ldm_core.errors import CheckpointError, ConfigError
from ldm_core.weights.complete import build_part
from ldm_core.weights.source import open_source

AE = {"channels": 32, "channel_mult": (1, 2, 4), "res_blocks": 1, "attention": (2,), "z_channels": 4}
UNET = {"channels": 32, "channel_mult": (1, 2), "res_blocks": 1, "attention": (2,), "head_channels": 16}


@cache
def catalog() -> Catalog:
    return Catalog.discover()


def through(path: Path, given: Mapping[str, Any] | None = None, **options: Any) -> ModelWeights:
    return CompVisCodec(CompVisConfig(**options)).read(open_source(str(path), given or {}))


# ------------------------------------------------------------------------------------------------- golden outputs


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_golden_unet_without_context(prefix: str, tmp_path: Path) -> None:
    shapes = {prefix + k: v for k, v in expected.of_unet(UNET, 3, CondSpec()).items()}
    path = saved(tmp_path / "a.ckpt", fill(shapes, prefix))
    weights = through(path, {"denoiser": {"head_channels": 16}})
    assert not weights.missing and not weights.unexpected
    unet = build_part(weights, catalog())
    assert sum(p.numel() for p in unet.parameters()) == 702_499
    with torch.no_grad():
        out = unet(ramp(2, 3, 8, 8, step=0.1), torch.tensor([7, 421]), Cond())
    golden = [0.054413, 0.111671, 0.349217, 0.126466, 0.128812, 0.073837, 0.003204, -0.042763]
    assert statistics(out) == pytest.approx(golden, abs=1e-4)


def test_golden_unet_with_context(tmp_path: Path) -> None:
    fields = {**UNET, "attention": (2, 1), "head_channels": 0, "heads": 4, "transformer_depth": 2}
    shapes = {"model.diffusion_model." + k: v for k, v in expected.of_unet(fields, 4, CondSpec(crossattn=24)).items()}
    path = saved(tmp_path / "b.ckpt", fill(shapes, "model.diffusion_model."))
    weights = through(path, {"denoiser": {"heads": 4}})
    assert weights.cond == CondSpec(crossattn=24)
    unet = build_part(weights, catalog())
    assert sum(p.numel() for p in unet.parameters()) == 1_422_500
    context = torch.cos(0.05 * torch.arange(2 * 5 * 24, dtype=torch.float64)).float().view(2, 5, 24)
    with torch.no_grad():
        out = unet(ramp(2, 4, 8, 8, step=0.1), torch.tensor([7, 421]), Cond(crossattn=context))
    golden = [0.064029, 0.106163, 0.338344, 0.007074, -0.054731, -0.115547, -0.177750, -0.208070]
    assert statistics(out) == pytest.approx(golden, abs=1e-4)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_golden_kl_stage(prefix: str, tmp_path: Path) -> None:
    shapes = {prefix + k: v for k, v in expected.of_first_stage("kl_ae", AE, 3).items()}
    path = saved(tmp_path / "kl.ckpt", fill(shapes, prefix), epoch=3)
    stage: Any = build_part(through(path), catalog())
    with torch.no_grad():
        moments = stage.encode_moments(ramp(1, 3, 32, 32, step=0.02))
        decoded = stage.decode(stage.latents(moments))
    golden = [0.037637, 0.018861, 0.066726, 0.036644, 0.045922, 0.045983, 0.045847, 0.045569]
    assert statistics(moments) == pytest.approx(golden, abs=1e-4)
    golden = [0.044580, 0.130900, 0.539542, 0.035338, 0.024277, -0.101342, -0.056658, -0.052723]
    assert statistics(decoded) == pytest.approx(golden, abs=1e-4)


def test_golden_vq_stage(tmp_path: Path) -> None:
    fields = {**AE, "attention": (), "z_channels": 3, "codebook_size": 16}
    path = saved(tmp_path / "vq.ckpt", fill(expected.of_first_stage("vq_ae", fields, 3)))
    stage: Any = build_part(through(path), catalog())
    with torch.no_grad():
        moments = stage.encode_moments(ramp(1, 3, 32, 32, step=0.02))
        indices = stage.indices(moments).flatten()[:16].tolist()
        decoded = stage.decode(stage.latents(moments))
    golden = [0.027918, 0.014500, 0.064650, -0.003747, -0.000717, 0.002041, 0.002957, 0.002982]
    assert statistics(moments) == pytest.approx(golden, abs=1e-4)
    assert indices == [11] * 8 + [13] * 7 + [7]
    golden = [0.046384, 0.138519, 0.542394, 0.140984, 0.122210, -0.090518, -0.117220, -0.177795]
    assert statistics(decoded) == pytest.approx(golden, abs=1e-4)


# ------------------------------------------------------------------------------------------------------ a small model


def small_model() -> dict[str, Tensor]:
    """A small unconditional model as the released programs save one, with the tables of its schedule."""
    unet = {"model.diffusion_model." + k: v for k, v in expected.of_unet(UNET, 4, CondSpec()).items()}
    stage = {"first_stage_model." + k: v for k, v in expected.of_first_stage("kl_ae", AE, 3).items()}
    return {**fill(unet), **fill(stage), **beta_buffers(0.0015, 0.0155), "scale_factor": torch.tensor(0.5)}


GIVEN: Mapping[str, Any] = {"denoiser": {"head_channels": 16}, "image_size": 32, "parameterization": "eps"}


def test_a_whole_model_and_its_scale_factor(tmp_path: Path) -> None:
    weights = through(saved(tmp_path / "model.ckpt", small_model(), global_step=7), GIVEN)
    assert weights.first_stage is not None and weights.model is not None
    assert not weights.missing and not weights.unexpected
    assert torch.equal(weights.first_stage["latent_std"], torch.full((4,), 2.0))
    assert weights.recipe["schedule"] == {
        "use": "vp",
        "kind": "linear",
        "beta_start": 0.0015,
        "beta_end": 0.0155,
        "steps": 1000,
    }
    other = through(tmp_path / "model.ckpt", GIVEN, scale_factor=0.25)
    assert other.first_stage is not None and torch.equal(other.first_stage["latent_std"], torch.full((4,), 4.0))


def test_averages_are_taken_by_the_rule_of_their_names(tmp_path: Path) -> None:
    tensors = small_model()
    own = {k: v for k, v in tensors.items() if k.startswith("model.diffusion_model.")}
    shadows = {"model_ema." + k.removeprefix("model.").replace(".", ""): v + 1 for k, v in own.items()}
    assert len(shadows) == len(own)
    assert "model_ema.diffusion_modelinput_blocks31qkvweight" in shadows
    tensors |= shadows | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    path = saved(tmp_path / "model.ckpt", tensors)
    for ema in (True, False):
        weights = through(path, GIVEN, ema=ema)
        assert not weights.missing and not weights.unexpected and weights.model is not None
        for name, value in own.items():
            read = weights.model["denoiser." + name.removeprefix("model.diffusion_model.")]
            assert torch.equal(read, value + 1 if ema else value), name
        assert any("averaged" in note for note in weights.notes)


def test_averages_of_a_first_stage_by_itself(tmp_path: Path) -> None:
    fields = {**AE, "z_channels": 3, "codebook_size": 16}
    own = fill(expected.of_first_stage("vq_ae", fields, 3))
    shadows = {"model_ema." + k.replace(".", ""): v + 1 for k, v in own.items()}
    extra = {"model_ema.lossdiscriminatormain0weight": torch.zeros(1), "model_ema.decay": torch.tensor(0.9)}
    weights = through(saved(tmp_path / "vq.ckpt", own | shadows | extra))
    assert weights.first_stage is not None and not weights.unexpected
    assert all(torch.equal(weights.first_stage[k], v + 1) for k, v in own.items())


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_two_parameters_share_the_name_of_an_average(preset: str) -> None:
    from attrs import asdict

    cond = CondSpec(crossattn=512) if "text" in preset or "cin" in preset or "layout" in preset else CondSpec()
    names = expected.of_unet(asdict(PRESETS[preset]), 4, cond)
    assert len({averaged("diffusion_model." + name) for name in names}) == len(names)


def test_spare_names_are_dropped_and_others_reported(tmp_path: Path) -> None:
    spare = {
        **{f"ddim_{name}": torch.zeros(50) for name in ("sigmas", "alphas", "alphas_prev", "sqrt_one_minus_alphas")},
        "lvlb_weights": torch.zeros(1000),
        "logvar": torch.zeros(1000),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "first_stage_model.colorize": torch.zeros(3, 5, 1, 1),
        "posterior_mean_coef2": torch.zeros(1000),
    }
    weights = through(saved(tmp_path / "model.ckpt", small_model() | spare), GIVEN)
    assert not weights.unexpected and any("sampler" in note for note in weights.notes)
    others = {"control_model.input_hint_block.0.weight": torch.zeros(3), "embedding_manager.x": torch.zeros(3)}
    tensors = small_model() | others
    del tensors["first_stage_model.quant_conv.bias"]
    tensors["model.diffusion_model.out.2.bias"] = torch.zeros(9)
    weights = through(saved(tmp_path / "model.ckpt", tensors), GIVEN)
    assert sorted(weights.unexpected) == sorted(others)
    assert len(weights.missing) == 2 and weights.missing[0] == "first_stage_model.quant_conv.bias"
    assert "out.2.bias in shape (4,) (the file: (9,))" in weights.missing[1]


def test_a_bare_mapping_and_one_of_lightning(tmp_path: Path) -> None:
    """A class of a program that is not installed keys the callbacks, as in the released files."""
    tensors = small_model()
    torch.save(tensors, tmp_path / "bare.ckpt")
    module = types.ModuleType("pytorch_lightning_gone")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        lightning = {"callbacks": {module.ModelCheckpoint: {"best": None}}, "optimizer_states": [{"state": {}}]}
        saved(tmp_path / "lightning.ckpt", tensors, epoch=3, global_step=5, **lightning)
    finally:
        del sys.modules[module.__name__]
    first, second = (through(tmp_path / name, GIVEN) for name in ("bare.ckpt", "lightning.ckpt"))
    assert first.model is not None and second.model is not None
    assert all(torch.equal(v, second.model[k]) for k, v in first.model.items())


def test_half_precision_and_linear_attention_of_the_decoder(tmp_path: Path) -> None:
    """Tables rounded to half precision still tell the schedule; 1×1 convolutions may lie as matrices."""
    tensors = {k: v.half() for k, v in small_model().items()}
    for key in [k for k in tensors if ".mid.attn_1." in k and tensors[k].dim() == 4]:
        tensors[key] = tensors[key][:, :, 0, 0]
    weights = through(saved(tmp_path / "half.ckpt", tensors), GIVEN)
    assert not weights.missing and weights.first_stage is not None
    assert (weights.recipe["schedule"]["beta_start"], weights.recipe["schedule"]["beta_end"]) == (0.0015, 0.0155)
    assert weights.first_stage["encoder.mid.attn_1.q.weight"].shape == (128, 128, 1, 1)


# -------------------------------------------------------------------------------------------------- configurations

CONFIG: Mapping[str, Any] = {
    "model": {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "linear_start": 0.002,
            "linear_end": 0.02,
            "timesteps": 500,
            "loss_type": "l1",
            "image_size": 8,
            "scale_factor": 0.2,
            "parameterization": "x0",
            "unet_config": {
                "target": "os.system",
                "params": {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "num_head_channels": 16},
            },
        },
    }
}


def test_a_configuration_beside_the_file(tmp_path: Path) -> None:
    tensors = {k: v for k, v in small_model().items() if k not in ("betas", "alphas_cumprod", "scale_factor")}
    path = saved(tmp_path / "model.ckpt", tensors)
    with pytest.raises(ConfigError) as raised:
        through(path)
    said = str(raised.value)
    for setting in ("denoiser.heads", "schedule", "parameterization", "image_size", "codec.scale_factor"):
        assert setting in said
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(dict(CONFIG)))
    weights = through(path)
    assert weights.recipe["denoiser"]["head_channels"] == 16 and weights.recipe["image_size"] == 32
    assert weights.recipe["schedule"] == {
        "use": "vp",
        "beta_start": 0.002,
        "beta_end": 0.02,
        "steps": 500,
        "kind": "linear",
    } or weights.recipe["schedule"] == {"use": "vp", "beta_start": 0.002, "beta_end": 0.02, "steps": 500}
    assert weights.recipe["parameterization"] == "x0" and weights.recipe["objective"]["loss"] == "l1"
    assert weights.first_stage is not None and weights.first_stage["latent_std"][0].item() == pytest.approx(5.0)


def test_a_configuration_of_another_model_is_left_aside(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.ckpt", small_model())
    other = yaml.safe_dump(dict(CONFIG)).replace("model_channels: 32", "model_channels: 64")
    (tmp_path / "config.yaml").write_text(other)
    (tmp_path / "broken.yaml").write_text("model: [")
    found = CompVisCodec(CompVisConfig()).recognise(open_source(str(path)))
    assert found is not None and "denoiser.heads" in found.unknown
    assert any("another model" in note for note in found.notes) and any("not read" in note for note in found.notes)


# ---------------------------------------------------------------------------------------------------- text encoders


def with_text(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A small model whose U-Net reads contexts 64 wide, with the tensors of its text encoder."""
    unet = {"model.diffusion_model." + k: v for k, v in expected.of_unet(UNET, 4, CondSpec(crossattn=64)).items()}
    stage = {"first_stage_model." + k: v for k, v in expected.of_first_stage("kl_ae", AE, 3).items()}
    return {**fill(unet), **fill(stage), **beta_buffers(0.00085, 0.012), **text}


CLIP = {"vocab_size": 16, "width": 64, "layers": 2, "inner": 128, "length": 8}


def test_text_encoders_without_their_last_prefix(tmp_path: Path) -> None:
    """Some programs drop ``text_model.``; positions may lie beside."""
    text = fill({f"cond_stage_model.{k}": v for k, v in clip_keys.expected(CLIP).items()})
    bare = {k.replace("text_model.", ""): v for k, v in text.items()}
    bare["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(8)[None]
    given = {**GIVEN, "codec": {"scale_factor": 0.18215}}
    one, other = (
        through(saved(tmp_path / f"{i}.ckpt", with_text(names)), given) for i, names in enumerate((text, bare))
    )
    for weights in (one, other):
        assert weights.model is not None and not weights.missing and not weights.unexpected
        assert weights.model["conditioners.text._extra_state"].numel() == 0
        for name, value in text.items():
            assert torch.equal(weights.model[name.replace("cond_stage_model.", "conditioners.text.")], value)
    assert one.recipe == other.recipe


def test_the_last_of_24_layers_of_openclip_is_left_out(tmp_path: Path) -> None:
    """Queries, keys and values lie below one another; of 24 layers the last but one's output is the condition."""
    own = fill(clip_keys.expected({**CLIP, "layers": 24}))
    stored = {f"cond_stage_model.{k}": v for k, v in clip_keys.to_open(own, torch.cat).items()}
    key = "cond_stage_model.model.transformer.resblocks.3.attn.in_proj_weight"
    at = "transformer.text_model.encoder.layers.3.self_attn."
    assert torch.equal(stored[key], torch.cat([own[f"{at}{part}_proj.weight"] for part in "qkv"]))
    stored["cond_stage_model.model.text_projection"] = torch.zeros(64, 64)
    given = {**GIVEN, "codec": {"scale_factor": 0.18215}}
    weights = through(saved(tmp_path / "open.ckpt", with_text(stored)), given)
    assert weights.model is not None and not weights.missing and not weights.unexpected
    assert weights.recipe["conditioners"][0]["layers"] == 23
    read = {k.removeprefix("conditioners.text."): v for k, v in weights.model.items() if "conditioners" in k}
    del read["_extra_state"]
    assert read.keys() == {k for k in own if ".layers.23." not in k}
    assert all(torch.equal(value, own[k]) for k, value in read.items())


def test_what_these_parts_cannot_be_is_said(tmp_path: Path) -> None:
    tensors = small_model()
    tensors["model.diffusion_model.label_emb.weight"] = torch.zeros(10, 128)
    with pytest.raises(CheckpointError, match="table of 10 classes"):
        through(saved(tmp_path / "adm.ckpt", tensors))
    tensors = small_model()
    del tensors["first_stage_model.quant_conv.weight"]
    with pytest.raises(CheckpointError, match="no quant_conv"):
        through(saved(tmp_path / "sd3.ckpt", tensors))
    tensors = small_model() | {f"conditioner.embedders.{i}.x": torch.zeros(1) for i in (0, 1)}
    with pytest.raises(CheckpointError, match="2 conditioners side by side"):
        through(saved(tmp_path / "xl.ckpt", tensors))
