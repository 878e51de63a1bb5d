"""The U-Net's architecture from the names and shapes of its tensors. Imports no torch.

Shapes cannot say how many heads an attention has, nor the order of fused projections; all else they do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from ldm_core.builtin.unet.config import UNetConfig

Shapes = Mapping[str, tuple[int, ...]]
_UP = re.compile(r"output_blocks\.(\d+)\.[12]\.(conv\.weight|in_layers\.2\.weight)$")


class NotThisUNet(ValueError):
    """The tensors are those of another U-Net than this package can build; the message names the difference."""


@attrs.frozen(kw_only=True)
class UNetShapes:
    """A U-Net by names and shapes: `fields` of its config, widths, and the attending widths.

    `crossattn` and `vector` are 0 if there is none; `concat` counts the channels beside the latents.
    """

    fields: Mapping[str, Any]
    latent_channels: int
    concat: int
    crossattn: int
    vector: int
    attending: tuple[int, ...]

    @property
    def structure(self) -> tuple[Any, ...]:
        """All of it as one comparable value."""
        return (
            *structure_of(UNetConfig(**self.fields), self.crossattn),
            self.latent_channels,
            self.concat,
            self.crossattn,
        )

    @property
    def possible_heads(self) -> tuple[int, ...]:
        """Numbers of heads, up to 32, dividing every attending width."""
        return tuple(n for n in range(1, 33) if all(width % n == 0 for width in self.attending))


def structure_of(config: UNetConfig, crossattn: int) -> tuple[Any, ...]:
    """The part of a U-Net's config shown by its shapes, as one comparable value."""
    levels = len(config.channel_mult)
    return (
        config.channels,
        config.channel_mult,
        config.res_blocks,
        frozenset(f for f in config.attention if f < 2**levels),
        config.scale_shift_norm,
        config.resblock_updown and levels > 1,
        crossattn and (config.transformer_depth, config.linear_projection),
    )


def unet_shapes(shapes: Shapes) -> UNetShapes:
    """Names relative to the U-Net, with shapes -> its architecture.

    Raises :class:`NotThisUNet` for anything missing or different (another depth a level, a class table inside, ...).
    """
    try:
        return _unet_shapes(shapes)
    except KeyError as error:
        raise NotThisUNet(f"the U-Net lacks {error.args[0]}") from None
    except (IndexError, ZeroDivisionError):
        raise NotThisUNet("the U-Net's tensors have the wrong number of axes") from None


def _unet_shapes(shapes: Shapes) -> UNetShapes:
    channels, in_channels = shapes["input_blocks.0.0.weight"][:2]
    out_channels = shapes["out.2.weight"][0]
    outputs = 1 + max((int(k.split(".")[1]) for k in shapes if k.startswith("output_blocks.")), default=-1)
    inputs = 1 + max(int(k.split(".")[1]) for k in shapes if k.startswith("input_blocks."))
    ups = {int(m[1]): m[2] for k in shapes if (m := _UP.match(k))}
    levels = len(ups) + 1
    res_blocks = (min(ups) if ups else outputs - 1) if outputs else 0
    blocks = 1 + levels * res_blocks + levels - 1
    if res_blocks < 1 or inputs != blocks or outputs != levels * (res_blocks + 1):
        raise NotThisUNet(f"the U-Net has {inputs} input and {outputs} output blocks, which make no levels")
    updown = any(name.startswith("in_layers") for name in ups.values())
    if "label_emb.weight" in shapes:
        rows = shapes["label_emb.weight"][0]
        raise NotThisUNet(
            f"the U-Net has a table of {rows} classes or noise levels inside (label_emb), which no conditioner here "
            "serves"
        )

    mult, attention = [], []
    for level in range(levels):
        first = 1 + level * (res_blocks + 1)
        width = shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0]
        if width % channels:
            raise NotThisUNet(f"level {level} has width {width}, no multiple of {channels}")
        mult.append(width // channels)
        if any(k.startswith(f"input_blocks.{first}.1.") for k in shapes):
            attention.append(2**level)
    transformers = _transformers(shapes)
    vector = shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else 0
    return UNetShapes(
        fields={
            "channels": channels,
            "channel_mult": tuple(mult),
            "res_blocks": res_blocks,
            "attention": tuple(reversed(attention)),
            "transformer_depth": transformers.depth or 1,
            "scale_shift_norm": shapes["input_blocks.1.0.emb_layers.1.weight"][0]
            == 2 * shapes["input_blocks.1.0.out_layers.3.weight"][0],
            "resblock_updown": updown,
            "linear_projection": transformers.linear,
        },
        latent_channels=out_channels,
        concat=in_channels - out_channels,
        crossattn=transformers.width,
        vector=vector,
        attending=tuple(
            sorted({channels * m for i, m in enumerate(mult) if 2**i in attention} | {channels * mult[-1]})
        ),
    )


@attrs.frozen
class _Transformers:
    depth: int
    width: int
    linear: bool


def _transformers(shapes: Shapes) -> _Transformers:
    """The common numbers of the spatial transformers; depth 0 for plain attention."""
    depths: dict[str, int] = {}
    widths: set[int] = set()
    for key, shape in shapes.items():
        before, found, after = key.partition(".transformer_blocks.")
        if found:
            depths[before] = max(depths.get(before, 0), 1 + int(after.split(".")[0]))
            if after.endswith("attn2.to_k.weight"):
                widths.add(shape[1])
    if not depths:
        if "middle_block.1.qkv.weight" not in shapes:
            raise NotThisUNet("the U-Net has no attention in the middle")
        return _Transformers(0, 0, False)
    if len(set(depths.values())) > 1:
        raise NotThisUNet(
            f"the U-Net has {', '.join(map(str, sorted(set(depths.values()))))} transformer blocks in different "
            "attentions (as Stable Diffusion XL has); the one here has one number everywhere"
        )
    if len(widths) != 1:
        raise NotThisUNet(f"the U-Net's cross-attentions read contexts of widths {sorted(widths)}")
    linear = len(shapes["middle_block.1.proj_in.weight"]) == 2
    return _Transformers(next(iter(depths.values())), widths.pop(), linear)
