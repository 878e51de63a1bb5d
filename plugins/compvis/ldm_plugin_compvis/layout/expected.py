"""The names and shapes that each part of a recipe needs, built on the meta device from the core's own blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import nn

from ldm_core.builtin.unet.config import UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.nn.autoencoder import Decoder, Encoder
from ldm_core.nn.autoencoder_config import AutoencoderConfig
from ldm_core.nn.transformer import TokenTransformer
from ldm_plugin_compvis.layout import clip as clip_keys

Shapes = dict[str, tuple[int, ...]]


def of_unet(fields: Mapping[str, Any], latent_channels: int, cond: CondSpec) -> Shapes:
    """The denoiser's; `fields` of :class:`UNetConfig`, more are ignored."""
    known = {field.name for field in attrs.fields(UNetConfig)}
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k in known}
    config = UNetConfig(**plain)
    latent = LatentSpec(channels=latent_channels, stride=(1, 1))
    with torch.device("meta"):
        return _shapes(UNet(config, Site(size=(config.factor, config.factor), latent=latent, cond=cond)))


def of_first_stage(use: str, fields: Mapping[str, Any], image_channels: int) -> Shapes:
    """The first stage's (``kl_ae`` or ``vq_ae``), without its normalisation."""
    names = [field.name for field in attrs.fields(AutoencoderConfig) if field.name in fields]
    config = AutoencoderConfig(**{name: fields[name] for name in names})
    z = fields["z_channels"]
    out = z if use == "vq_ae" else 2 * z
    with torch.device("meta"):
        module = nn.Module()
        module.encoder = Encoder(config, out_channels=out, image_channels=image_channels)
        module.decoder = Decoder(config, image_channels=image_channels)
        module.quant_conv = nn.Conv2d(out, out, 1)
        module.post_quant_conv = nn.Conv2d(z, z, 1)
        found = _shapes(module)
    return {**found, "quantize.embedding.weight": (fields["codebook_size"], z)} if use == "vq_ae" else found


def of_conditioner(use: str, fields: Mapping[str, Any]) -> Shapes:
    """A conditioner's, by its component; of one without weights none."""
    if use in ("text", "bbox_layout"):
        length = fields["length"] if use == "text" else 3 * fields["objects"] + 2 * fields["encode_crop"]
        with torch.device("meta"):
            module = TokenTransformer(
                fields["vocab_size"],
                fields["width"],
                fields["layers"],
                length,
                heads=(fields["heads"], fields["head_width"]),
                logits=fields["logits"],
            )
        return {f"transformer.{name}": shape for name, shape in _shapes(module).items()}
    if use == "class_label":
        return {"embedding.weight": (fields["classes"] + fields["null_class"], fields["width"])}
    if use == "semantic_map":
        return {"channel_mapper.weight": (fields["channels"], fields["classes"], 1, 1)}
    return clip_keys.expected(fields) if use == "clip_text" else {}


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}
