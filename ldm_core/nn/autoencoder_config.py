"""Settings of the published convolutional autoencoders, for the configs of first stages. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ldm_core.contracts import FirstStageConfig, LatentSpec, Site


@attrs.frozen(kw_only=True)
class AutoencoderConfig(FirstStageConfig):
    """Shape of an encoder and its decoder (arXiv 2112.10752, appendix G); the defaults are those of factor 4."""

    channels: int = attrs.field(
        default=128, metadata={"help": "base width; every level's width is a multiple of norm_groups"}
    )
    channel_mult: tuple[int, ...] = attrs.field(
        default=(1, 2, 4),
        metadata={"help": "width of each level as a multiple of channels; n levels give factor patch * 2**(n-1)"},
    )
    res_blocks: int = attrs.field(
        default=2, metadata={"help": "residual blocks a level in the encoder; one more in the decoder"}
    )
    patch: int = attrs.field(
        default=1,
        metadata={
            "help": "side of the squares of pixels that one cell of the first level holds; 1: a cell a pixel",
            "since": "0.2",
        },
    )
    attention: tuple[int, ...] = attrs.field(
        default=(), metadata={"help": "downsampling factors (1, 2, 4, ... times patch) of the levels with attention"}
    )
    mid_attention: bool = attrs.field(
        default=True, metadata={"help": "attention between the two blocks of the lowest resolution"}
    )
    z_channels: int = attrs.field(default=3, metadata={"help": "channels of the latents"})
    norm_groups: int = attrs.field(default=32, metadata={"help": "groups of every group normalisation"})
    dropout: float = attrs.field(default=0.0, metadata={"help": "dropout in residual blocks"})

    @property
    def latent(self) -> LatentSpec:
        """Channels and stride of the latents."""
        factor = self.patch * 2 ** (len(self.channel_mult) - 1)
        return LatentSpec(channels=self.z_channels, stride=(factor, factor))

    def check(self, site: Site) -> Iterator[str]:
        """One line for each number that cannot work, such as no level, or a width between the norm's groups."""
        for name, value in (("channel_mult", len(self.channel_mult)), ("res_blocks", self.res_blocks)):
            if value < 1:
                yield f"{name}: at least one is needed"
        for name, value in (
            ("channels", self.channels),
            ("z_channels", self.z_channels),
            ("norm_groups", self.norm_groups),
            ("patch", self.patch),
        ):
            if value < 1:
                yield f"{name}: expected a whole number above 0, got {value}"
                return
        if min(self.channel_mult, default=1) < 1:
            yield f"channel_mult: expected whole numbers above 0, got {list(self.channel_mult)}"
            return
        widths = [self.channels, *(self.channels * mult for mult in self.channel_mult)]
        if uneven := [width for width in widths if width % self.norm_groups]:
            yield (
                f"width {uneven[0]} is not divisible by norm_groups {self.norm_groups}; "
                f"make channels a multiple of it, or set norm_groups to a divisor"
            )

    def remarks(self) -> Iterator[str]:
        """One line on factors of `attention` that no level has; foreign weights may name one."""
        there = [self.patch * 2**level for level in range(len(self.channel_mult))]
        if lost := [str(factor) for factor in self.attention if factor not in there]:
            yield (
                f"first_stage.attention: {', '.join(lost)} is without effect, as the levels have the factors "
                f"{', '.join(map(str, there))}"
            )


def in_order(_: type, fields: list[attrs.Attribute[object]]) -> list[attrs.Attribute[object]]:
    """Field transformer of a subclass with other defaults: the fields of :class:`AutoencoderConfig` stay first."""
    names = [field.name for field in attrs.fields(AutoencoderConfig)]
    return sorted(fields, key=lambda field: names.index(field.name) if field.name in names else len(names))
