"""The time-conditional U-Net's configuration and the sizes of the paper. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import Accepts, DenoiserConfig, Site


@attrs.frozen(kw_only=True)
class UNetConfig(DenoiserConfig):
    """The U-Net of Rombach et al. 2022 (arXiv 2112.10752, appendix E); its in and out widths are the model's.

    Level i works at downsampling factor 2**i of the latents and has width channels · channel_mult[i].
    """

    channels: int = attrs.field(
        default=128, metadata={"help": "base width; every level's width is a multiple of norm_groups"}
    )
    channel_mult: tuple[int, ...] = attrs.field(
        default=(1, 2, 4), metadata={"help": "width of each level as a multiple of channels"}
    )
    res_blocks: int = attrs.field(
        default=2, metadata={"help": "residual blocks a level on the way down; one more on the way up"}
    )
    attention: tuple[int, ...] = attrs.field(
        default=(4, 2),
        metadata={"help": "downsampling factors of the levels with attention; the middle always has it"},
    )
    heads: int = attrs.field(default=8, metadata={"help": "attention heads, where head_channels is 0"})
    head_channels: int = attrs.field(
        default=0,
        metadata={"help": "channels of a head: heads = width / head_channels; 0: `heads` everywhere"},
    )
    transformer_depth: int = attrs.field(
        default=1,
        metadata={"help": "transformer blocks in each attention, with cross-attention conditioning"},
    )
    norm_groups: int = attrs.field(default=32, metadata={"help": "groups of every group normalisation"})
    dropout: float = attrs.field(default=0.0, metadata={"help": "dropout in residual and transformer blocks"})
    scale_shift_norm: bool = attrs.field(
        default=False,
        metadata={"help": "the embedding scales and shifts the second norm instead of being added"},
    )
    resblock_updown: bool = attrs.field(
        default=False, metadata={"help": "resample in residual blocks instead of convolutions"}
    )
    checkpoint: bool = attrs.field(
        default=False,
        metadata={"help": "recompute blocks in the backward pass: less memory, a third more time"},
    )
    new_attention_order: bool = attrs.field(
        default=False,
        metadata={"help": "fused projections are [q|k|v][head]; published models: [head][q|k|v]"},
    )
    linear_projection: bool = attrs.field(
        default=False,
        metadata={"help": "linear layers around the transformer blocks, not 1x1 convolutions (SD 2)"},
    )
    input_skip: bool = field(
        False, "add a linear map of the input to the output, its weights made of the noise level", since="0.2"
    )

    @property
    def accepts(self) -> Accepts:
        """Cross-attention, vector, concat and residual conditioning; no extras."""
        return Accepts()

    @property
    def factor(self) -> int:
        """The lowest level's downsampling factor, which divides the latents' height and width."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def sites(self) -> tuple[str, ...]:
        """Residual sites: `in.i` after input block i, `skip.i` on its skip, `mid` after the middle."""
        blocks = 1 + len(self.channel_mult) * self.res_blocks + len(self.channel_mult) - 1
        return (*(f"in.{i}" for i in range(blocks)), *(f"skip.{i}" for i in range(blocks)), "mid")

    def heads_at(self, width: int) -> int:
        """Attention heads at a level of `width` channels."""
        return width // self.head_channels if self.head_channels else self.heads

    def check(self, site: Site) -> Iterator[str]:
        """One line for each misfit of the widths, heads, latent size and residual sites."""
        if not self.channel_mult or self.res_blocks < 1:
            yield f"channel_mult {self.channel_mult}, res_blocks {self.res_blocks}: one of each is needed"
            return
        counts = {"channels": self.channels, "transformer_depth": self.transformer_depth}
        if least := [f"{name} is {count}; set 1 or more" for name, count in counts.items() if count < 1]:
            yield least[0]
            return
        if min(self.channel_mult) < 1:
            yield f"channel_mult {self.channel_mult}: every level needs 1 or more"
            return
        groups = self.norm_groups
        widths = dict.fromkeys([self.channels, *(self.channels * mult for mult in self.channel_mult)])
        if uneven := [width for width in widths if groups < 1 or width % groups]:
            yield f"width {uneven[0]} is not divisible by norm_groups {groups}; make channels a multiple"
        levels = list(enumerate(self.channel_mult))
        attending = {self.channels * mult for i, mult in levels if 2**i in self.attention or i == len(levels) - 1}
        for width in sorted(attending):
            divisor, name = (self.head_channels, "head_channels") if self.head_channels else (self.heads, "heads")
            if divisor < 1 or width % divisor:
                yield f"attention width {width} is not divisible by {name} {divisor}; set a divisor of it"
        if site.latent is not None:
            try:
                size = site.latent.shape(site.size)[1:]
            except ValueError:
                return  # the first stage's own misfit, reported with it
            if len(size) != 2:
                yield f"latents have {len(size)} axes; the U-Net works on 2 (height, width)"
            elif uneven := [length for length in size if length % self.factor]:
                fit = max(
                    (n for n in range(1, len(self.channel_mult)) if all(s % 2 ** (n - 1) == 0 for s in size)),
                    default=1,
                )
                yield (
                    f"latent size {uneven[0]} is not divisible by {self.factor} ({len(levels)} levels); "
                    f"use {fit} levels in channel_mult, or an image size divisible by "
                    f"{self.factor * max(site.latent.stride)}"
                )
        last = len(self.sites) // 2
        if unknown := [name for name in site.cond.residuals if name not in self.sites]:
            yield f"the U-Net has no residual site '{unknown[0]}'; it has in.i, skip.i (i < {last}), mid"


_SD1 = UNetConfig(channels=320, channel_mult=(1, 2, 4, 4), attention=(4, 2, 1), heads=8, checkpoint=True)

PRESETS: Mapping[str, UNetConfig] = {
    # CelebA-HQ, FFHQ and LSUN bedrooms, on vq_f4
    "unet_ldm4": UNetConfig(channels=224, channel_mult=(1, 2, 3, 4), attention=(8, 4, 2), head_channels=32),
    # LSUN churches, on kl_f8
    "unet_churches": UNetConfig(
        channels=192,
        channel_mult=(1, 2, 2, 4, 4),
        attention=(1, 2, 4, 8),
        heads=8,
        scale_shift_norm=True,
        resblock_updown=True,
    ),
    # ImageNet classes, on vq_f8 and on vq_f4
    "unet_cin_f8": UNetConfig(channels=256, channel_mult=(1, 2, 4), attention=(4, 2, 1), head_channels=32),
    "unet_cin_f4": UNetConfig(channels=192, channel_mult=(1, 2, 3, 5), attention=(8, 4, 2), heads=1),
    # ImageNet classes on pixels and on latents of factor 2, of the paper's comparison of factors (not released)
    "unet_tradeoff_f1": UNetConfig(channels=192, channel_mult=(1, 1, 2, 2, 4, 4), attention=(32, 16, 8), heads=1),
    "unet_tradeoff_f2": UNetConfig(channels=192, channel_mult=(1, 2, 2, 4, 4), attention=(16, 8, 4), heads=1),
    # text to image: the 1.45 B model on kl_f8, Conceptual Captions on vq_f4
    "unet_text_f8": _SD1,
    "unet_text_f4": UNetConfig(channels=192, channel_mult=(1, 2, 3, 5), attention=(8, 4, 2), head_channels=32),
    # boxes to image, on vq_f4
    "unet_layout": UNetConfig(
        channels=128, channel_mult=(1, 2, 3, 4), attention=(8, 4, 2), head_channels=32, transformer_depth=3
    ),
    # label maps to image, on vq_f4: the factors asked for lie below the lowest level, so only the middle
    # attends
    "unet_semantic": UNetConfig(channels=128, channel_mult=(1, 4, 8), attention=(32, 16, 8), heads=8),
    # fourfold super-resolution, on vq_f4
    "unet_sr": UNetConfig(channels=160, channel_mult=(1, 2, 2, 4), attention=(16, 8), head_channels=32),
    # inpainting, on vq_f4_noattn
    "unet_inpainting": UNetConfig(
        channels=256, channel_mult=(1, 2, 3, 4), attention=(8, 4, 2), heads=8, resblock_updown=True
    ),
    # retrieval-augmented diffusion at 768 px, on kl_f16
    "unet_rdm": UNetConfig(
        channels=448, channel_mult=(1, 2, 3, 4), attention=(4, 2, 1), head_channels=32, checkpoint=True
    ),
    # Stable Diffusion 1: the text model's shape, with a context of width 768
    "unet_sd1": _SD1,
}
"""The paper's sizes by preset name; in, out and context widths are the model's."""


def small(site: Site) -> Mapping[str, object]:
    """The U-Net for a laptop's CPU at `site`.

    On latents of up to 10 cells a side one level with attention everywhere: on 8x8 latents of the shapes it came as
    far in 300 CPU-seconds as two levels (64 and 128 wide) in 800. Larger grids need the levels, for attention's cost.
    """
    fields: dict[str, object] = {"res_blocks": 1, "head_channels": 0, "transformer_depth": 1, "norm_groups": 8}
    try:
        cells = max(site.latent.shape(site.size)[1:]) if site.latent else 0
    except ValueError:  # an image size that the check will refuse
        cells = 0
    if 0 < cells <= 10:
        return {**fields, "channels": 96, "channel_mult": (1,), "attention": (1,), "heads": 3}
    if cells <= 24:
        return {**fields, "channels": 64, "channel_mult": (1, 2), "attention": (2,), "heads": 2}
    return {**fields, "channels": 48, "channel_mult": (1, 2, 2), "attention": (4,), "heads": 2}
