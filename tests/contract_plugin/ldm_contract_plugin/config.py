"""Options of the test plugin's parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import attrs

from ldm_core.contracts import Accepts, CondSpec, DataInfo, LatentSpec, Site

SECOND_TOKENS = "second_tokens"
"""The extra that carries the second set of tokens (B, L2, D2)."""


@attrs.frozen(kw_only=True)
class TinyDiTConfig:
    """A diffusion transformer (Peebles & Xie 2022, arXiv 2212.09748), adaLN-Zero, with cross-attention."""

    patch: int = attrs.field(default=2, metadata={"help": "latent cells of a token's side"})
    width: int = attrs.field(default=64, metadata={"help": "width of a token; a multiple of 4 and of heads"})
    depth: int = attrs.field(default=2, metadata={"help": "blocks"})
    heads: int = attrs.field(default=4, metadata={"help": "attention heads"})
    learned_sigma: bool = attrs.field(default=True, metadata={"help": "put out C more channels, a variance"})

    @property
    def accepts(self) -> Accepts:
        """Tokens, a vector, and the second set of tokens."""
        return Accepts(concat=False, residuals=False, extras=(SECOND_TOKENS,))

    def check(self, site: Site) -> Iterator[str]:
        """One line for each size that cannot be built."""
        if self.width % 4 or self.width % self.heads:
            yield f"width {self.width} is not divisible by 4 and by heads {self.heads}"
        if site.latent is not None:
            try:
                grid = site.latent.shape(site.size)[1:]
            except ValueError:
                return  # the first stage's own misfit
            if uneven := [n for n in grid if n % self.patch]:
                yield f"latent size {uneven[0]} is not divisible by patch {self.patch}"


@attrs.frozen(kw_only=True)
class RectifiedFlowConfig:
    """x_t = (1 - t) x0 + t eps (Liu et al. 2022, arXiv 2209.03003); it takes no settings."""

    table_steps: ClassVar[int | None] = None
    zero_terminal_alpha: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class FlowConfig:
    """The network predicts eps - x0; it takes no settings."""

    needs_terminal_alpha: ClassVar[bool] = False


@attrs.frozen(kw_only=True)
class TwoSetConfig:
    """The caption's letters as tokens, the class as tokens of another width, and both pooled into a vector."""

    width: int = attrs.field(default=32, metadata={"help": "width of the first set, for cross-attention"})
    second_width: int = attrs.field(default=12, metadata={"help": "width of the second set, an extra"})
    vector: int = attrs.field(default=8, metadata={"help": "width of the pooled vector"})
    length: int = attrs.field(default=24, metadata={"help": "letters of the caption that are read"})
    classes: int = attrs.field(default=0, metadata={"help": "number of classes; 0: as many as the data has"})

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys of a batch that it touches."""
        return ("caption", "class_label")

    def spec(self, latent: LatentSpec) -> CondSpec:
        """All three widths."""
        return CondSpec(crossattn=self.width, vector=self.vector, extras={SECOND_TOKENS: (None, self.second_width)})

    def from_data(self, info: DataInfo) -> TwoSetConfig:
        """Take the number of classes from the data."""
        return self if self.classes else attrs.evolve(self, classes=info.classes.get("class_label", 0))


@attrs.frozen(kw_only=True)
class LoRAConfig:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): W + scale B A on the attention's projections."""

    rank: int = attrs.field(default=4, metadata={"help": "rank of each update"})
    scale: float = attrs.field(default=1.0, metadata={"help": "strength of the updates"})
    targets: tuple[str, ...] = attrs.field(
        default=("to_q", "to_k", "to_v", "to_out.0"),
        metadata={"help": "ends of the names of the linear layers that are adapted"},
    )


@attrs.frozen(kw_only=True)
class OFTConfig:
    """Orthogonal finetuning (Qiu et al. 2023, arXiv 2306.07280): R W on the rows of attention weights."""

    block: int = attrs.field(default=4, metadata={"help": "rows that are rotated together"})
    scale: float = attrs.field(default=1.0, metadata={"help": "strength: 0 = no rotation"})
    targets: tuple[str, ...] = attrs.field(
        default=("to_q", "to_v"), metadata={"help": "ends of the addresses of the weights that are adapted"}
    )


@attrs.frozen(kw_only=True)
class PatchesConfig:
    """A linear autoencoder of patches."""

    channels: int = attrs.field(default=4, metadata={"help": "channels of the latents"})
    side: int = attrs.field(default=4, metadata={"help": "pixels of a patch's side"})

    @property
    def latent(self) -> LatentSpec:
        """One cell a patch."""
        return LatentSpec(channels=self.channels, stride=(self.side, self.side))


@attrs.frozen(kw_only=True)
class AlignedConfig:
    """Latents aligned with a fixed network (Yao et al. 2025, arXiv 2501.01423)."""

    weight: float = attrs.field(default=0.1, metadata={"help": "factor of the loss"})
    adaptive: bool = attrs.field(default=True, metadata={"help": "times the ratio of gradients at the encoder"})
    width: int = attrs.field(default=8, metadata={"help": "features of the network"})
    margin: float = attrs.field(default=0.1, metadata={"help": "how far below 1 a cosine may stay"})
