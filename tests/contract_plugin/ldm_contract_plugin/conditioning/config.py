"""Options of these parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import attrs

from ldm_core.contracts import SIZE_KEYS, Accepts, ConditionerConfig, CondSpec, DenoiserConfig, LatentSpec, Site

TEXT, PICTURE = "text", "picture"
"""Names of the two sets of tokens that :class:`TwoRolesConfig` attends to apart."""


@attrs.frozen(kw_only=True)
class LettersConfig(ConditionerConfig):
    """The caption's letters as tokens, joined to other conditioners' as is asked for, or as a set by its name."""

    width: int = attrs.field(default=8, metadata={"help": "width of a token"})
    length: int = attrs.field(default=16, metadata={"help": "letters of the caption that are read"})
    padded: bool = attrs.field(default=False, metadata={"help": "always `length` tokens, and no mask"})
    join: Literal["length", "width"] = attrs.field(default="length", metadata={"help": "as in CondSpec"})
    pad_to: int = attrs.field(default=0, metadata={"help": "as in CondSpec"})
    role: str = attrs.field(default="", metadata={"help": "name of the set; none: crossattn"})

    @property
    def reads(self) -> tuple[str, ...]:
        """The caption."""
        return ("caption",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Tokens under the name of their role, or as crossattn."""
        if self.role:
            return CondSpec(tokens={self.role: self.width})
        return CondSpec(crossattn=self.width, join=self.join, pad_to=self.pad_to)


@attrs.frozen(kw_only=True)
class PatchesConfig(ConditionerConfig):
    """The picture's patches as a set of tokens with a name of its own."""

    width: int = attrs.field(default=6, metadata={"help": "width of a token"})
    side: int = attrs.field(default=8, metadata={"help": "pixels of a patch's side"})

    @property
    def reads(self) -> tuple[str, ...]:
        """The picture."""
        return ("image",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """The set ``picture``."""
        return CondSpec(tokens={PICTURE: self.width})

    def check(self, site: Site) -> Iterator[str]:
        """One line for a size that has no whole patches."""
        if uneven := [n for n in site.size if n % self.side]:
            yield f"image size {uneven[0]} is not divisible by side {self.side}"


@attrs.frozen(kw_only=True)
class TwoRolesConfig(DenoiserConfig):
    """Attention on text and on a picture, apart, and a sum of both."""

    width: int = attrs.field(default=16, metadata={"help": "channels inside; divisible by heads"})
    heads: int = attrs.field(default=2, metadata={"help": "attention heads"})

    @property
    def accepts(self) -> Accepts:
        """Both sets by their names, and no other conditioning."""
        return Accepts(crossattn=False, vector=False, concat=False, residuals=False, tokens=(TEXT, PICTURE))

    def check(self, site: Site) -> Iterator[str]:
        """One line for each set that is missing."""
        for name in (TEXT, PICTURE):
            if name not in site.cond.tokens:
                yield f"needs the tokens '{name}'; add a conditioner that writes them"


@attrs.frozen(kw_only=True)
class NoisySmallConfig(ConditionerConfig):
    """A small picture with noise of a drawn level, and the level (Ho et al. 2021, arXiv 2106.15282, section 4.2)."""

    draws: ClassVar[bool] = True
    droppable: ClassVar[bool] = False

    most: float = attrs.field(default=0.5, metadata={"help": "the highest level; levels are uniform from 0 on"})
    width: int = attrs.field(default=8, metadata={"help": "width of the level's embedding"})
    channels: int = attrs.field(default=3, metadata={"help": "channels of the pictures"})

    @property
    def reads(self) -> tuple[str, ...]:
        """The picture."""
        return ("image",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """The picture beside the latents, and a vector that tells the level."""
        return CondSpec(concat=self.channels, vector=self.width)


@attrs.frozen(kw_only=True)
class SizesConfig(ConditionerConfig):
    """Six sizes of a picture as sinusoids (Podell et al. 2023, arXiv 2307.01952, section 2.2)."""

    droppable: ClassVar[bool] = False

    width: int = attrs.field(default=8, metadata={"help": "width of the embedding of one number"})

    @property
    def reads(self) -> tuple[str, ...]:
        """The sizes that the core writes."""
        return SIZE_KEYS

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Six embeddings side by side."""
        return CondSpec(vector=6 * self.width)
