"""The first stage's architecture from the names and shapes of its tensors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

Shapes = Mapping[str, tuple[int, ...]]


class NotThisAutoencoder(ValueError):
    """The tensors are those of another autoencoder than the plugins here can build; the message names the
    difference."""


@attrs.frozen(kw_only=True)
class AutoencoderShapes:
    """An autoencoder by names and shapes: `use` (``kl_ae`` or ``vq_ae``), the `fields` of its config,
    `image_channels`."""

    use: str
    fields: Mapping[str, Any]
    image_channels: int

    @property
    def factor(self) -> int:
        """Image pixels a latent cell."""
        return int(2 ** (len(self.fields["channel_mult"]) - 1))

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.fields["z_channels"])


def autoencoder_shapes(shapes: Shapes) -> AutoencoderShapes:
    """Names relative to the first stage, with shapes -> its architecture.

    Raises :class:`NotThisAutoencoder` for anything missing or different (no quant_conv, Gumbel codes, ...).
    """
    try:
        return _autoencoder_shapes(shapes)
    except KeyError as error:
        raise NotThisAutoencoder(f"the first stage lacks {error.args[0]}") from None
    except (IndexError, ZeroDivisionError):
        raise NotThisAutoencoder("the first stage's tensors have the wrong number of axes") from None


def _autoencoder_shapes(shapes: Shapes) -> AutoencoderShapes:
    channels, image_channels = shapes["encoder.conv_in.weight"][:2]
    if "quantize.embed.weight" in shapes:
        raise NotThisAutoencoder("the first stage quantises by Gumbel softmax, which no plugin here does")
    if "quant_conv.weight" not in shapes or "post_quant_conv.weight" not in shapes:
        raise NotThisAutoencoder("the first stage has no quant_conv (as Stable Diffusion 3 and Flux have none)")
    levels = _count(shapes, "encoder.down")
    res_blocks = _count(shapes, "encoder.down.0.block")
    mult, attention = [], []
    for level in range(levels):
        width = shapes[f"encoder.down.{level}.block.0.conv1.weight"][0]
        if width % channels:
            raise NotThisAutoencoder(f"level {level} has width {width}, no multiple of {channels}")
        mult.append(width // channels)
        if f"encoder.down.{level}.attn.0.norm.weight" in shapes:
            attention.append(2**level)
    z = shapes["decoder.conv_in.weight"][1]
    embed = shapes["post_quant_conv.weight"][1]
    if embed != z:
        raise NotThisAutoencoder(f"the first stage has {embed} latent channels on {z} inner ones; here both are one")
    fields: dict[str, Any] = {
        "channels": channels,
        "channel_mult": tuple(mult),
        "res_blocks": res_blocks,
        "attention": tuple(attention),
        "mid_attention": "encoder.mid.attn_1.norm.weight" in shapes,
        "z_channels": z,
    }
    if "quantize.embedding.weight" in shapes:
        fields["codebook_size"] = shapes["quantize.embedding.weight"][0]
        return AutoencoderShapes(use="vq_ae", fields=fields, image_channels=image_channels)
    if shapes["encoder.conv_out.weight"][0] != 2 * z:
        raise NotThisAutoencoder("the first stage has neither a codebook nor a variance (double_z)")
    return AutoencoderShapes(use="kl_ae", fields=fields, image_channels=image_channels)


def _count(shapes: Shapes, prefix: str) -> int:
    """The number of `prefix`'s numbered members; KeyError if there is none."""
    at = prefix.count(".") + 1
    numbers = {int(k.split(".")[at]) for k in shapes if k.startswith(prefix + ".")}
    if not numbers:
        raise KeyError(prefix)
    return max(numbers) + 1
