"""The autoencoders under both names: classes, settings, block types and weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import attrs

from ldm_plugin_diffusers.values import LAYERS, Field, Plain
from ldm_plugin_diffusers.weights import Weight, convolution, flattened, norm

CLASSES = {"AutoencoderKL": "kl_ae", "VQModel": "vq_ae"}
"""Their class -> our component."""
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
"""Their block type -> whether it has attention."""
_BOTH = (
    Field("layers_per_block", "res_blocks", 1, most=LAYERS),
    Field("mid_block_add_attention", "mid_attention", True),
    Field("norm_num_groups", "norm_groups", 32),
)
FIELDS: Mapping[str, Sequence[Field]] = {
    "kl_ae": (*_BOTH, Field("latent_channels", "z_channels", 4)),
    "vq_ae": (
        *_BOTH,
        Field("latent_channels", "z_channels", 3),
        Field("num_vq_embeddings", "codebook_size", 256),
    ),
}
"""The settings of our components."""


@attrs.frozen(kw_only=True)
class AutoencoderShape:
    """The settings behind a first stage's weights; `codes` is the codebook's size, 0 = Gaussian latents."""

    channels: int
    channel_mult: Sequence[int]
    res_blocks: int
    attention: Collection[int]
    mid_attention: bool
    z_channels: int
    codes: int
    image_channels: int

    @classmethod
    def of(cls, part: Plain, image_channels: int) -> AutoencoderShape:
        """The shape for the settings of one of our components."""
        names = ("channels", "channel_mult", "res_blocks", "attention", "mid_attention", "z_channels")
        own = {name: part[name] for name in names}
        return cls(codes=part.get("codebook_size", 0), image_channels=image_channels, **own)

    @property
    def moments(self) -> int:
        """Channels of the encoder's output."""
        return self.z_channels if self.codes else 2 * self.z_channels

    def attends(self, level: int) -> bool:
        """True if a level has attention after its blocks."""
        return 2**level in self.attention


def autoencoder_weights(shape: AutoencoderShape, *, quant: bool = True, post_quant: bool = True) -> list[Weight]:
    """All weights of a first stage; without `quant` or `post_quant`, that convolution is left out."""
    out = [*_encoder(shape), *_decoder(shape)]
    z = shape.z_channels
    if quant:
        out += convolution("quant_conv", "quant_conv", shape.moments, shape.moments, 1)
    if post_quant:
        out += convolution("post_quant_conv", "post_quant_conv", z, z, 1)
    if shape.codes:
        out.append(Weight("quantize.embedding.weight", ("quantize.embedding.weight",), (shape.codes, z)))
    return out


def _encoder(shape: AutoencoderShape) -> Iterator[Weight]:
    width = shape.channels
    yield from convolution("encoder.conv_in", "encoder.conv_in", shape.image_channels, width)
    last = len(shape.channel_mult) - 1
    for level, mult in enumerate(shape.channel_mult):
        ours, theirs = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        widths = [width, *[shape.channels * mult] * shape.res_blocks]
        yield from _level(ours, theirs, widths, shape.attends(level))
        width = widths[-1]
        if level != last:
            yield from convolution(f"{ours}.downsample.conv", f"{theirs}.downsamplers.0.conv", width, width)
    yield from _middle("encoder", width, shape.mid_attention)
    yield from norm("encoder.norm_out", "encoder.conv_norm_out", width)
    yield from convolution("encoder.conv_out", "encoder.conv_out", width, shape.moments)


def _decoder(shape: AutoencoderShape) -> Iterator[Weight]:
    last = len(shape.channel_mult) - 1
    width = shape.channels * shape.channel_mult[-1]
    yield from convolution("decoder.conv_in", "decoder.conv_in", shape.z_channels, width)
    yield from _middle("decoder", width, shape.mid_attention)
    for level in reversed(range(last + 1)):  # up[0] is the highest resolution here, the lowest there
        ours, theirs = f"decoder.up.{level}", f"decoder.up_blocks.{last - level}"
        widths = [width, *[shape.channels * shape.channel_mult[level]] * (shape.res_blocks + 1)]
        yield from _level(ours, theirs, widths, shape.attends(level))
        width = widths[-1]
        if level:
            yield from convolution(f"{ours}.upsample.conv", f"{theirs}.upsamplers.0.conv", width, width)
    yield from norm("decoder.norm_out", "decoder.conv_norm_out", width)
    yield from convolution("decoder.conv_out", "decoder.conv_out", width, shape.image_channels)


def _middle(part: str, width: int, attention: bool) -> Iterator[Weight]:
    yield from _resnet(f"{part}.mid.block_1", f"{part}.mid_block.resnets.0", width, width)
    if attention:
        yield from _attention(f"{part}.mid.attn_1", f"{part}.mid_block.attentions.0", width)
    yield from _resnet(f"{part}.mid.block_2", f"{part}.mid_block.resnets.1", width, width)


def _level(ours: str, theirs: str, widths: Sequence[int], attention: bool) -> Iterator[Weight]:
    for block, (into, out) in enumerate(pairwise(widths)):
        yield from _resnet(f"{ours}.block.{block}", f"{theirs}.resnets.{block}", into, out)
        if attention:
            yield from _attention(f"{ours}.attn.{block}", f"{theirs}.attentions.{block}", out)


def _resnet(ours: str, theirs: str, into: int, out: int) -> Iterator[Weight]:
    yield from norm(f"{ours}.norm1", f"{theirs}.norm1", into)
    yield from convolution(f"{ours}.conv1", f"{theirs}.conv1", into, out)
    yield from norm(f"{ours}.norm2", f"{theirs}.norm2", out)
    yield from convolution(f"{ours}.conv2", f"{theirs}.conv2", out, out)
    if into != out:
        yield from convolution(f"{ours}.nin_shortcut", f"{theirs}.conv_shortcut", into, out, 1)


def _attention(ours: str, theirs: str, width: int) -> Iterator[Weight]:
    yield from norm(f"{ours}.norm", f"{theirs}.group_norm", width)
    for own, their in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield from flattened(f"{ours}.{own}", f"{theirs}.{their}", width, 2)
