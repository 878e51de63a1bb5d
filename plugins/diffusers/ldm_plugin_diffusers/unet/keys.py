"""The U-Net under both names: classes, settings, block types and weights.

Input and output blocks are numbered here; there, blocks are grouped by level.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ldm_plugin_diffusers.values import Field, Plain
from ldm_plugin_diffusers.weights import Weight, convolution, flattened, linear, norm

PLAIN, CROSS = "UNet2DModel", "UNet2DConditionModel"
"""Their classes: without and with cross-attention."""
FIELDS = (Field("norm_num_groups", "norm_groups", 32), Field("dropout", "dropout", 0.0, least=0, most=1))
"""The settings of both classes."""
CONSTANTS: Plain = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
}
"""Settings with one value here."""
MIDDLE: Mapping[str, str] = {PLAIN: "UNetMidBlock2D", CROSS: "UNetMidBlock2DCrossAttn"}
"""The middle block's type by class."""


def blocks(class_name: str, side: str) -> dict[str, tuple[bool, str]]:
    """Block types of a side (``Down``, ``Up``): without attention, the same with resnets that resample, with attention.

    Type -> (attention, resampling by ``conv`` or ``resnet``, or "" for a choice by ``downsample_type``).
    """
    cross = class_name == CROSS
    return {
        f"{side}Block2D": (False, "conv"),
        f"Resnet{side}sampleBlock2D": (False, "resnet"),
        f"{'Cross' * cross}Attn{side}Block2D": (True, "conv" * cross),
    }


@attrs.frozen(kw_only=True)
class UNetShape:
    """The settings behind a U-Net's weights. `inputs`: latent and concat channels."""

    inputs: int
    outputs: int
    channels: int
    channel_mult: Sequence[int]
    res_blocks: int
    attention: Collection[int]
    heads: int = 8
    head_channels: int = 0
    crossattn: int = 0
    vector: int = 0
    vector_name: str = "class_embedding"
    transformer_depth: int = 1
    linear_projection: bool = False
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    new_attention_order: bool = False

    @classmethod
    def of(cls, part: Plain, **widths: Any) -> UNetShape:
        """The shape for settings of our U-Net; `widths`: the model's own."""
        names = {field.name for field in attrs.fields(cls)}
        return cls(**{name: value for name, value in part.items() if name in names}, **widths)

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * int(mult) for mult in self.channel_mult]

    @property
    def attends(self) -> list[bool]:
        """Attention in the blocks of each level."""
        return [2**level in self.attention for level in range(len(self.channel_mult))]


def unet_weights(shape: UNetShape) -> list[Weight]:
    """All weights of a U-Net."""
    return list(_Names(shape).all())


class _Names:
    def __init__(self, shape: UNetShape) -> None:
        self.shape, self.emb = shape, 4 * shape.channels

    def all(self) -> Iterator[Weight]:
        shape, emb = self.shape, self.emb
        yield from linear("time_embed.0", "time_embedding.linear_1", shape.channels, emb)
        yield from linear("time_embed.2", "time_embedding.linear_2", emb, emb)
        if shape.vector:
            yield from linear("label_emb.0.0", f"{shape.vector_name}.linear_1", shape.vector, emb)
            yield from linear("label_emb.0.2", f"{shape.vector_name}.linear_2", emb, emb)
        yield from convolution("input_blocks.0.0", "conv_in", shape.inputs, shape.channels)
        last = len(shape.channel_mult) - 1
        width, skips, index = shape.channels, [shape.channels], 0
        for level, out in enumerate(shape.widths):
            theirs = f"down_blocks.{level}"
            for block in range(shape.res_blocks):
                index += 1
                yield from self._pair(f"input_blocks.{index}", theirs, block, width, out, level)
                width = out
                skips.append(width)
            if level != last:
                index += 1
                ours = f"input_blocks.{index}.0"
                if shape.resblock_updown:
                    yield from self._resnet(ours, f"{theirs}.downsamplers.0", width, width)
                else:
                    yield from convolution(f"{ours}.op", f"{theirs}.downsamplers.0.conv", width, width)
                skips.append(width)
        yield from self._resnet("middle_block.0", "mid_block.resnets.0", width, width)
        yield from self._attention("middle_block.1", "mid_block.attentions.0", width)
        yield from self._resnet("middle_block.2", "mid_block.resnets.1", width, width)
        index = 0
        for level in reversed(range(last + 1)):
            theirs, out = f"up_blocks.{last - level}", shape.widths[level]
            for block in range(shape.res_blocks + 1):
                yield from self._pair(f"output_blocks.{index}", theirs, block, width + skips.pop(), out, level)
                width = out
                if level and block == shape.res_blocks:
                    ours = f"output_blocks.{index}.{2 if 2**level in shape.attention else 1}"
                    if shape.resblock_updown:
                        yield from self._resnet(ours, f"{theirs}.upsamplers.0", width, width)
                    else:
                        yield from convolution(f"{ours}.conv", f"{theirs}.upsamplers.0.conv", width, width)
                index += 1
        yield from norm("out.0", "conv_norm_out", width)
        yield from convolution("out.2", "conv_out", width, shape.outputs)

    def _pair(self, ours: str, theirs: str, block: int, into: int, out: int, level: int) -> Iterator[Weight]:
        yield from self._resnet(f"{ours}.0", f"{theirs}.resnets.{block}", into, out)
        if 2**level in self.shape.attention:
            yield from self._attention(f"{ours}.1", f"{theirs}.attentions.{block}", out)

    def _resnet(self, ours: str, theirs: str, into: int, out: int) -> Iterator[Weight]:
        yield from norm(f"{ours}.in_layers.0", f"{theirs}.norm1", into)
        yield from convolution(f"{ours}.in_layers.2", f"{theirs}.conv1", into, out)
        told = 2 * out if self.shape.scale_shift_norm else out
        yield from linear(f"{ours}.emb_layers.1", f"{theirs}.time_emb_proj", self.emb, told)
        yield from norm(f"{ours}.out_layers.0", f"{theirs}.norm2", out)
        yield from convolution(f"{ours}.out_layers.3", f"{theirs}.conv2", out, out)
        if into != out:
            yield from convolution(f"{ours}.skip_connection", f"{theirs}.conv_shortcut", into, out, 1)

    def _attention(self, ours: str, theirs: str, width: int) -> Iterator[Weight]:
        own = self.shape
        if own.crossattn:
            yield from self._transformer(ours, theirs, width)
            return
        yield from norm(f"{ours}.norm", f"{theirs}.group_norm", width)
        heads = 0 if own.new_attention_order else width // own.head_channels if own.head_channels else own.heads
        for kind, shape in (("weight", (3 * width, width, 1)), ("bias", (3 * width,))):
            theirs_all = tuple(f"{theirs}.to_{role}.{kind}" for role in "qkv")
            yield Weight(f"{ours}.qkv.{kind}", theirs_all, shape, flat=True, heads=heads)
        yield from flattened(f"{ours}.proj_out", f"{theirs}.to_out.0", width, 1)

    def _transformer(self, ours: str, theirs: str, width: int) -> Iterator[Weight]:
        yield from norm(f"{ours}.norm", f"{theirs}.norm", width)
        yield from self._projection(f"{ours}.proj_in", f"{theirs}.proj_in", width)
        for depth in range(self.shape.transformer_depth):
            a, b = (f"{side}.transformer_blocks.{depth}" for side in (ours, theirs))
            for name, context in (("attn1", width), ("attn2", self.shape.crossattn)):
                for role, into in (("q", width), ("k", context), ("v", context)):
                    yield from linear(f"{a}.{name}.to_{role}", f"{b}.{name}.to_{role}", into, width, bias=False)
                yield from linear(f"{a}.{name}.to_out.0", f"{b}.{name}.to_out.0", width, width)
            yield from linear(f"{a}.ff.net.0.proj", f"{b}.ff.net.0.proj", width, 8 * width)
            yield from linear(f"{a}.ff.net.2", f"{b}.ff.net.2", 4 * width, width)
            for number in (1, 2, 3):
                yield from norm(f"{a}.norm{number}", f"{b}.norm{number}", width)
        yield from self._projection(f"{ours}.proj_out", f"{theirs}.proj_out", width)

    def _projection(self, ours: str, theirs: str, width: int) -> Iterator[Weight]:
        if self.shape.linear_projection:
            yield from linear(ours, theirs, width, width)
        else:
            yield from convolution(ours, theirs, width, width, 1)
