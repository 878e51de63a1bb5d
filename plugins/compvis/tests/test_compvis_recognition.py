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

from ldm_core.catalog import Catalog
from ldm_core.codec import Recognised
from ldm_core.resolve import resolve
from ldm_core.specs import CondSpec, LatentSpec, Site

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
    assert found.parameters.get("conditioners", 0) == (
        case.cond_parameters or (53_219_486 if name == "inpainting" else 0)
    )
