"""Every released model is recognised at its full size from names and shapes: the parts are this package's presets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs
import pytest
import torch
from compvis_files import OneFile, beta_buffers, meta_module, shapes_file, shapes_of_module
from ldm_plugin_compvis.codec import CompVisCodec
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.shapes.conditioner import NotThisConditioner, conditioner_shapes

from ldm_core.builtin.unet.config import PRESETS, UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.catalog import Catalog
from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.contracts.codec import Recognised
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.shipped import load_plain

STAGES = ("vq_f4", "vq_f4_noattn", "vq_f8", "vq_f8_n256", "vq_f16", "kl_f4", "kl_f8", "kl_f16", "kl_f32")


@cache
def catalog() -> Catalog:
    return Catalog.discover()


@cache
def codec() -> CompVisCodec:
    return CompVisCodec(CompVisConfig())


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
@pytest.mark.parametrize("name", STAGES)
def test_every_first_stage(name: str, prefix: str) -> None:
    module = meta_module(catalog(), "first_stage", name, Site(size=(256, 256)))
    shapes = shapes_of_module(module, prefix)
    losses = {prefix + "loss.logvar": (), prefix + "loss.discriminator.main.0.weight": (64, 3, 4, 4)}
    found = codec().recognise(OneFile(shapes_file({**shapes, **losses})))
    assert found is not None and found.holds == "first_stage" and not found.unknown
    assert name in found.what
    preset = catalog().get("first_stage", name)[1]
    assert resolve(found.recipe, catalog()).first_stage.config == preset
    assert found.parameters == {"first_stage": sum(p.numel() for p in module.parameters())}


@attrs.frozen(kw_only=True)
class Case:
    """A row of the table of released models."""

    unet: str
    stage: str
    schedule: str
    betas: tuple[float, float]
    size: int = 256
    latent: int = 3
    concat: int = 0
    crossattn: int = 0
    conditioner: str = ""
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    unet_parameters: int
    cond_parameters: int = 0
    scale: float = 1.0
    loss: str = "l2"


LDM = (0.0015, 0.0195)
CASES = {
    "unconditional": Case(unet="unet_ldm4", stage="vq_f4", schedule="vp_ldm", betas=LDM, unet_parameters=274_056_163),
    "churches": Case(
        unet="unet_churches",
        stage="kl_f8",
        schedule="vp_churches",
        betas=(0.0015, 0.0155),
        latent=4,
        unet_parameters=294_966_916,
        loss="l1",
    ),
    "classes f8": Case(
        unet="unet_cin_f8",
        stage="vq_f8",
        schedule="vp_ldm",
        betas=LDM,
        latent=4,
        crossattn=512,
        conditioner="class_imagenet_f8",
        unet_parameters=394_984_196,
        cond_parameters=512_000,
    ),
    "classes f4": Case(
        unet="unet_cin_f4",
        stage="vq_f4",
        schedule="vp_ldm",
        betas=LDM,
        crossattn=512,
        conditioner="class_imagenet",
        unet_parameters=400_920_579,
        cond_parameters=512_512,
    ),
    "text f8": Case(
        unet="unet_text_f8",
        stage="kl_f8",
        schedule="vp_sd",
        betas=(0.00085, 0.012),
        latent=4,
        crossattn=1280,
        conditioner="text",
        unet_parameters=872_300_484,
        cond_parameters=581_994_042,
        scale=0.18215,
    ),
    "text f4": Case(
        unet="unet_text_f4",
        stage="vq_f4",
        schedule="vp_ldm",
        betas=LDM,
        crossattn=640,
        conditioner="text_small",
        unet_parameters=403_623_939,
        cond_parameters=186_154_682,
    ),
    "layout": Case(
        unet="unet_layout",
        stage="vq_f4",
        schedule="vp_layout",
        betas=(0.0015, 0.0205),
        crossattn=512,
        conditioner="bbox_layout",
        unet_parameters=246_277_379,
        cond_parameters=58_858_496,
        loss="l1",
    ),
    "semantic": Case(
        unet="unet_semantic",
        stage="vq_f4",
        schedule="vp_layout",
        betas=(0.0015, 0.0205),
        concat=3,
        conditioner="semantic_map_landscapes",
        unet_parameters=215_229_315,
        cond_parameters=546,
        loss="l1",
    ),
    "super-resolution": Case(
        unet="unet_sr",
        stage="vq_f4",
        schedule="vp_churches",
        betas=(0.0015, 0.0155),
        concat=3,
        conditioner="low_resolution",
        unet_parameters=113_622_563,
    ),
    "inpainting": Case(
        unet="unet_inpainting",
        stage="vq_f4_noattn",
        schedule="vp_layout",
        betas=(0.0015, 0.0205),
        concat=4,
        conditioner="masked_image",
        unet_parameters=387_245_827,
        loss="l1",
    ),
}


@cache
def full_size(name: str) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a released model's file, without the schedule's tables."""
    case = CASES[name]
    latent = LatentSpec(channels=case.latent, stride=(4, 4))
    site = Site(size=(512, 512), latent=latent, cond=CondSpec(crossattn=case.crossattn, concat=case.concat))
    unet = meta_module(catalog(), "denoiser", case.unet, site)
    stage = meta_module(catalog(), "first_stage", case.stage, Site(size=(256, 256)))
    shapes = shapes_of_module(unet, "model.diffusion_model.") | shapes_of_module(stage, "first_stage_model.")
    if case.cond_parameters:
        cond = meta_module(catalog(), "conditioner", case.conditioner, attrs.evolve(site, cond=CondSpec()))
        shapes |= shapes_of_module(cond, "cond_stage_model.")
    if case.conditioner == "masked_image":
        shapes |= shapes_of_module(stage, "cond_stage_model.")
    return shapes


def same_parts(found: Recognised, case: Case) -> None:
    recipe = resolve(found.recipe, catalog())
    assert recipe.denoiser.config == catalog().get("denoiser", case.unet)[1]
    assert recipe.first_stage.config == catalog().get("first_stage", case.stage)[1]
    assert recipe.schedule.config == catalog().get("schedule", case.schedule)[1]
    assert recipe.parameterization.use == "eps" and recipe.objective.config.loss == case.loss
    assert recipe.image_size == (case.size, case.size)
    if not case.conditioner:
        assert recipe.conditioners == ()
        return
    entry, preset = catalog().get("conditioner", case.conditioner)
    (part,) = recipe.conditioners
    expected = attrs.evolve(preset if preset is not None else entry.component.config(), **case.fields)
    if case.conditioner.startswith("text"):
        assert part.config.logits
    assert part.config == expected


@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_every_diffusion_model(name: str, buffers: bool) -> None:
    case = CASES[name]
    small: dict[str, torch.Tensor] = dict(beta_buffers(*case.betas)) if buffers else {}
    found = codec().recognise(OneFile(shapes_file(full_size(name), small)))
    assert found is not None and found.holds == "model" and not found.unknown
    same_parts(found, case)
    assert found.parameters["denoiser"] == case.unet_parameters
    assert found.parameters.get("conditioners", 0) == case.cond_parameters


ZOO = {
    "unconditional": ("ldm4_celebahq", "ldm4_ffhq", "ldm4_bedrooms"),
    "churches": ("ldm8_churches",),
    "classes f8": ("ldm8_imagenet",),
    "classes f4": ("ldm4_imagenet",),
    "text f8": ("ldm8_text_laion",),
    "text f4": ("ldm4_text_cc",),
    "layout": ("ldm4_layout_openimages",),
    "semantic": ("ldm4_semantic_landscapes",),
    "super-resolution": ("ldm4_sr_bsr",),
    "inpainting": ("ldm4_inpainting_big",),
}


@pytest.mark.parametrize(("name", "zoo"), [(name, zoo) for name, several in ZOO.items() for zoo in several])
def test_the_shipped_recipe_of_a_model_is_what_its_file_is_recognised_as(name: str, zoo: str) -> None:
    """So that training goes on from published weights with the recipe of the same name."""
    found = codec().recognise(OneFile(shapes_file(full_size(name))))
    assert found is not None
    ours, theirs = resolve(found.recipe, catalog()), resolve(load_plain(zoo), catalog())
    for part in ("first_stage", "denoiser", "schedule", "parameterization"):
        assert getattr(ours, part).config == getattr(theirs, part).config, part
    assert ours.image_size == theirs.image_size and ours.objective.config.loss == theirs.objective.config.loss
    assert [(c.name, c.config) for c in ours.conditioners] == [(c.name, c.config) for c in theirs.conditioners]


# -------------------------------------------------------------------------------------------------- Stable Diffusion


def clip_names(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """OpenAI's ViT-L/14 as transformers names it, with the positions that older files carry."""
    inner, at = 4 * width, "transformer.text_model."
    shapes: dict[str, tuple[int, ...]] = {
        at + "embeddings.token_embedding.weight": (49408, width),
        at + "embeddings.position_embedding.weight": (77, width),
        at + "embeddings.position_ids": (1, 77),
        at + "final_layer_norm.weight": (width,),
        at + "final_layer_norm.bias": (width,),
    }
    for i in range(layers):
        layer = f"{at}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{layer}self_attn.{name}.weight": (width, width), f"{layer}self_attn.{name}.bias": (width,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{name}.weight": (width,), f"{layer}{name}.bias": (width,)}
        shapes |= {f"{layer}mlp.fc1.weight": (inner, width), f"{layer}mlp.fc1.bias": (inner,)}
        shapes |= {f"{layer}mlp.fc2.weight": (width, inner), f"{layer}mlp.fc2.bias": (width,)}
    return shapes


def open_clip_names(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """OpenCLIP's ViT-H/14, with its projection."""
    inner, at = 4 * width, "model."
    shapes: dict[str, tuple[int, ...]] = {
        at + "token_embedding.weight": (49408, width),
        at + "positional_embedding": (77, width),
        at + "text_projection": (width, width),
        at + "logit_scale": (),
        at + "ln_final.weight": (width,),
        at + "ln_final.bias": (width,),
    }
    for i in range(layers):
        layer = f"{at}transformer.resblocks.{i}."
        shapes |= {layer + "attn.in_proj_weight": (3 * width, width), layer + "attn.in_proj_bias": (3 * width,)}
        shapes |= {layer + "attn.out_proj.weight": (width, width), layer + "attn.out_proj.bias": (width,)}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{layer}{name}.weight": (width,), f"{layer}{name}.bias": (width,)}
        shapes |= {layer + "mlp.c_fc.weight": (inner, width), layer + "mlp.c_fc.bias": (inner,)}
        shapes |= {layer + "mlp.c_proj.weight": (width, inner), layer + "mlp.c_proj.bias": (width,)}
    return shapes


SD2 = UNetConfig(channels=320, channel_mult=(1, 2, 4, 4), attention=(4, 2, 1), head_channels=64, linear_projection=True)


@cache
def stable_diffusion(version: int, concat: int = 0) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the released single files."""
    cond = CondSpec(crossattn=768 if version == 1 else 1024, concat=concat)
    site = Site(size=(64, 64), latent=LatentSpec(channels=4, stride=(1, 1)), cond=cond)
    with torch.device("meta"):
        unet = UNet(PRESETS["unet_sd1"] if version == 1 else SD2, site)
    stage = meta_module(catalog(), "first_stage", "kl_f8", Site(size=(256, 256)))
    text = clip_names(768, 12) if version == 1 else open_clip_names(1024, 24)
    shapes = shapes_of_module(unet, "model.diffusion_model.") | shapes_of_module(stage, "first_stage_model.")
    return shapes | {f"cond_stage_model.{name}": shape for name, shape in text.items()}


def recognised(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any] | None = None, **more: Any
) -> Recognised:
    file = shapes_file(shapes, beta_buffers(0.00085, 0.012), **more)
    found = codec().recognise(OneFile(file, given or {}))
    assert found is not None
    return found


@pytest.mark.parametrize("prefix", ["cond_stage_model.", "conditioner.embedders.0."])
def test_stable_diffusion_1(prefix: str) -> None:
    shapes = {k.replace("cond_stage_model.", prefix): v for k, v in stable_diffusion(1).items()}
    found = recognised(shapes)
    assert found.what == "Stable Diffusion 1" and found.holds == "model" and not found.unknown
    recipe = found.recipe
    assert recipe["denoiser"]["use"] == "unet_sd1" and recipe["first_stage"]["use"] == "kl_f8"
    assert recipe["image_size"] == 512 and recipe["parameterization"] == "eps"
    (text,) = recipe["conditioners"]
    assert {k: text[k] for k in ("use", "name", "width", "layers", "heads", "inner", "length", "train")} == {
        "use": "clip_text",
        "name": "text",
        "width": 768,
        "layers": 12,
        "heads": 12,
        "inner": 3072,
        "length": 77,
        "train": False,
    }
    assert found.parameters == {"denoiser": 859_520_964, "first_stage": 83_653_863, "conditioners": 123_060_480}
    if "clip_text" in catalog().names("conditioner"):
        part = resolve(recipe, catalog()).conditioners[0]
        assert part.config == catalog().get("conditioner", "clip_text_sd1")[1] and part.train is False


def test_stable_diffusion_2_and_what_it_predicts() -> None:
    shapes = stable_diffusion(2)
    found = recognised(shapes)
    assert found.what == "Stable Diffusion 2" and found.unknown == {"parameterization": ("eps", "v")}
    recipe = found.recipe
    assert recipe["denoiser"]["head_channels"] == 64 and recipe["denoiser"]["linear_projection"] is True
    (text,) = recipe["conditioners"]
    assert (text["width"], text["layers"], text["heads"], text["activation"]) == (1024, 23, 16, "gelu")
    if "clip_text" in catalog().names("conditioner"):
        part = resolve(recipe, catalog()).conditioners[0]
        assert part.config == catalog().get("conditioner", "clip_text_sd2")[1]
    for metadata, prediction, size in (
        ({"global_step": "875000"}, "eps", 512),
        ({"global_step": "110000"}, "v", 768),
        ({"modelspec.prediction_type": "v"}, "v", 768),
        ({"modelspec.prediction_type": "epsilon", "modelspec.resolution": "640x512"}, "eps", [512, 640]),
    ):
        found = recognised(shapes, metadata=metadata)
        assert not found.unknown
        assert (found.recipe["parameterization"], found.recipe["image_size"]) == (prediction, size)
    for given in ({"parameterization": "v"}, {"parameterization": {"use": "v"}}):
        found = recognised(shapes, given)
        assert not found.unknown and found.recipe["image_size"] == 768


@pytest.mark.parametrize("version", [1, 2])
def test_inpainting_of_stable_diffusion_is_recognised(version: int) -> None:
    found = recognised(stable_diffusion(version, 5))
    assert found.what == f"Stable Diffusion {version}, inpainting"
    assert any("mask" in note for note in found.notes)
    assert set(found.unknown) == set()
    text, masked = found.recipe["conditioners"]
    assert text["use"] == "clip_text"
    assert masked == {"use": "masked_image", "name": "masked_image", "hole": 0.0, "outside": 0.0}


def test_what_no_conditioner_gives_is_said() -> None:
    found = recognised(stable_diffusion(2, 1))
    assert found.what == "Stable Diffusion 2, depth" and "conditioners" in found.unknown
    assert any("1 channels beside the latents" in note for note in found.notes)


def test_retrieval_augmented_diffusion() -> None:
    """It has no encoder of its own: vectors are given."""
    site = Site(size=(64, 64), latent=LatentSpec(channels=16, stride=(1, 1)), cond=CondSpec(crossattn=768))
    with torch.device("meta"):
        unet = UNet(PRESETS["unet_rdm"], site)
    stage = meta_module(catalog(), "first_stage", "kl_f16", Site(size=(256, 256)))
    shapes = shapes_of_module(unet, "model.diffusion_model.") | shapes_of_module(stage, "first_stage_model.")
    found = codec().recognise(OneFile(shapes_file(shapes, beta_buffers(0.0015, 0.015))))
    assert found is not None and "retrieval" in found.what and not found.unknown
    assert found.recipe["image_size"] == 768 and found.recipe["schedule"]["beta_end"] == 0.015
    assert found.recipe["conditioners"][0]["use"] == "embedding" and found.recipe["conditioners"][0]["width"] == 768
    assert found.parameters["denoiser"] == 1_335_480_400


@pytest.mark.parametrize("more", [{}, {"transformer.pos_emb.emb.weight": (10, 16)}], ids=["bag", "no_layers"])
def test_tokens_without_a_transformer_are_not_guessed(more: dict[str, tuple[int, ...]]) -> None:
    shapes = {"transformer.token_emb.weight": (40, 16), "transformer.norm.weight": (16,), **more}
    with pytest.raises(NotThisConditioner, match=r"no transformer with it; keep the recipe\.yaml"):
        conditioner_shapes(shapes, 0, 16)
