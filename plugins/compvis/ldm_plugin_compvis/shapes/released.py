"""The released models by their structure: facts beyond the names and shapes of a file. Imports no torch.

From the configurations released with Rombach et al. 2022 (arXiv 2112.10752), retrieval-augmented diffusion (2204.11824)
and Stable Diffusion 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.builtin.unet.config import PRESETS, UNetConfig
from ldm_core.contracts import EMPTY
from ldm_plugin_compvis.shapes.autoencoder import AutoencoderShapes
from ldm_plugin_compvis.shapes.unet import UNetShapes, structure_of

STAGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    name: (use, {"channels": 128, "channel_mult": mult, "res_blocks": 2, "attention": attention, **more})
    for name, use, mult, attention, more in (
        ("vq_f4", "vq_ae", (1, 2, 4), (), {"mid_attention": True, "z_channels": 3, "codebook_size": 8192}),
        ("vq_f4_noattn", "vq_ae", (1, 2, 4), (), {"mid_attention": False, "z_channels": 3, "codebook_size": 8192}),
        ("vq_f8", "vq_ae", (1, 2, 2, 4), (8,), {"mid_attention": True, "z_channels": 4, "codebook_size": 16384}),
        ("vq_f8_n256", "vq_ae", (1, 2, 2, 4), (8,), {"mid_attention": True, "z_channels": 4, "codebook_size": 256}),
        ("vq_f16", "vq_ae", (1, 1, 2, 2, 4), (16,), {"mid_attention": True, "z_channels": 8, "codebook_size": 16384}),
        ("kl_f4", "kl_ae", (1, 2, 4), (), {"mid_attention": True, "z_channels": 3}),
        ("kl_f8", "kl_ae", (1, 2, 4, 4), (), {"mid_attention": True, "z_channels": 4}),
        ("kl_f16", "kl_ae", (1, 1, 2, 2, 4), (16,), {"mid_attention": True, "z_channels": 16}),
        ("kl_f32", "kl_ae", (1, 1, 2, 2, 4, 4), (16, 32), {"mid_attention": True, "z_channels": 64}),
    )
}
"""The nine released first stages: the preset of each, its component, and the fields visible in shapes."""

_SD2 = UNetConfig(
    channels=320, channel_mult=(1, 2, 4, 4), attention=(4, 2, 1), head_channels=64, linear_projection=True
)


@attrs.frozen(kw_only=True)
class Row:
    """A released model, or several of the same shapes: `what` in words, the parts by preset, and facts beyond shapes.

    `conditioner`: the component fitted by its conditioner's names ("" = any); `conditioning`: its fields.
    `parameterization` and `image_size` are left out if the models of a row differ. `hint`: for the user.
    """

    what: str
    unet: str
    config: UNetConfig
    stage: str
    latent_channels: int
    schedule: str
    concat: int = 0
    crossattn: int = 0
    conditioner: str = ""
    conditioning: Mapping[str, Any] = attrs.field(default=EMPTY)
    scale: float = 1.0
    parameterization: str | None = "eps"
    image_size: int | None = 256
    loss: str = "l2"
    hint: str = ""

    @property
    def structure(self) -> tuple[Any, ...]:
        """As :attr:`UNetShapes.structure`."""
        return (
            *structure_of(self.config, self.crossattn),
            self.latent_channels,
            self.concat,
            self.crossattn,
        )

    def fits(self, unet: UNetShapes, stage: str | None, conditioner: str) -> bool:
        """True if shapes are this row's; `stage` None and `conditioner` "": not there to be compared."""
        return (
            unet.structure == self.structure
            and not unet.vector
            and stage in (None, self.stage)
            and (not conditioner or not self.conditioner or conditioner == self.conditioner)
        )


def _row(what: str, unet: str, stage: str, schedule: str, **more: Any) -> Row:
    channels = STAGES[stage][1]["z_channels"]
    config = more.pop("config", None) or PRESETS[unet]
    return Row(what=what, unet=unet, config=config, stage=stage, schedule=schedule, latent_channels=channels, **more)


_INPAINTING_HINT = "its 5 extra channels, a mask and the masked picture's latents, are put in this package's order"

ROWS: Sequence[Row] = (
    _row("LDM-4, unconditional (CelebA-HQ, FFHQ or LSUN bedrooms)", "unet_ldm4", "vq_f4", "vp_ldm"),
    _row("LDM-8 of LSUN churches", "unet_churches", "kl_f8", "vp_churches", loss="l1"),
    _row(
        "LDM-8 of ImageNet classes",
        "unet_cin_f8",
        "vq_f8",
        "vp_ldm",
        crossattn=512,
        conditioner="class_label",
        conditioning={"classes": 1000, "null_class": False},
    ),
    _row(
        "LDM-4 of ImageNet classes",
        "unet_cin_f4",
        "vq_f4",
        "vp_ldm",
        crossattn=512,
        conditioner="class_label",
        conditioning={"classes": 1000, "null_class": True},
    ),
    _row(
        "LDM-8, text to image (1.45 B)",
        "unet_text_f8",
        "kl_f8",
        "vp_sd",
        crossattn=1280,
        conditioner="text",
        scale=0.18215,
    ),
    _row("LDM-4, text to image", "unet_text_f4", "vq_f4", "vp_ldm", crossattn=640, conditioner="text"),
    _row(
        "LDM-4, layout to image (OpenImages)",
        "unet_layout",
        "vq_f4",
        "vp_layout",
        crossattn=512,
        conditioner="bbox_layout",
        loss="l1",
    ),
    _row(
        "LDM-4, semantic synthesis (landscapes, 256 or 512 px)",
        "unet_semantic",
        "vq_f4",
        "vp_layout",
        concat=3,
        conditioner="semantic_map",
        conditioning={"classes": 182},
        loss="l1",
        hint="the models of 256 and 512 px share their shapes; image_size=512 for the larger one",
    ),
    _row(
        "LDM-4, fourfold super-resolution",
        "unet_sr",
        "vq_f4",
        "vp_churches",
        concat=3,
        conditioner="low_resolution",
    ),
    _row(
        "LDM-4, inpainting",
        "unet_inpainting",
        "vq_f4_noattn",
        "vp_layout",
        concat=4,
        conditioner="masked_image",
        loss="l1",
    ),
    _row(
        "retrieval-augmented diffusion, 768 px",
        "unet_rdm",
        "kl_f16",
        "vp_rdm",
        crossattn=768,
        conditioner="embedding",
        conditioning={"width": 768, "normalize": True},
        scale=0.22765929,
        image_size=768,
    ),
    _row(
        "Stable Diffusion 1",
        "unet_sd1",
        "kl_f8",
        "vp_sd",
        crossattn=768,
        conditioner="clip_text",
        scale=0.18215,
        image_size=512,
    ),
    _row(
        "Stable Diffusion 1, inpainting",
        "unet_sd1",
        "kl_f8",
        "vp_sd",
        crossattn=768,
        concat=5,
        conditioner="clip_text",
        scale=0.18215,
        image_size=512,
        hint=_INPAINTING_HINT,
    ),
    _row(
        "Stable Diffusion 2",
        "unet",
        "kl_f8",
        "vp_sd",
        config=_SD2,
        crossattn=1024,
        conditioner="clip_text",
        scale=0.18215,
        parameterization=None,
        image_size=None,
    ),
    _row(
        "Stable Diffusion 2, inpainting",
        "unet",
        "kl_f8",
        "vp_sd",
        config=_SD2,
        crossattn=1024,
        concat=5,
        conditioner="clip_text",
        scale=0.18215,
        image_size=512,
        hint=_INPAINTING_HINT,
    ),
    _row(
        "Stable Diffusion 2, depth",
        "unet",
        "kl_f8",
        "vp_sd",
        config=_SD2,
        crossattn=1024,
        concat=1,
        conditioner="clip_text",
        scale=0.18215,
        image_size=512,
        hint="its extra channel is a map of depth",
    ),
)
"""Every released model with a U-Net of ours."""


def stage_row(shapes: AutoencoderShapes) -> str:
    """The preset with the structure of these shapes, or ""."""
    return next((name for name, (use, fields) in STAGES.items() if use == shapes.use and fields == shapes.fields), "")


def row_of(unet: UNetShapes, stage: str | None, conditioner: str) -> Row | None:
    """The one released model with these shapes, else None; `stage`: the preset's name, "" none of them, None absent."""
    found = [row for row in ROWS if row.fits(unet, stage, conditioner)]
    return found[0] if len(found) == 1 else None
