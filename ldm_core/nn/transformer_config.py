"""Settings of the published transformer over tokens, for the configs of conditioners. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ldm_core.contracts import ConditionerConfig, CondSpec, LatentSpec, Site


@attrs.frozen(kw_only=True)
class TokenTransformerConfig(ConditionerConfig):
    """Shape of a :class:`~ldm_core.nn.transformer.TokenTransformer` with its vectors as the condition.

    The defaults are those of the 1.45 B text-to-image model (Rombach et al. 2022, arXiv 2112.10752, section 3.3).
    """

    vocab_size: int = attrs.field(default=30522, metadata={"help": "rows of the token table"})
    width: int = attrs.field(default=1280, metadata={"help": "width of the vectors handed to cross-attention"})
    layers: int = attrs.field(default=32, metadata={"help": "transformer layers"})
    heads: int = attrs.field(default=8, metadata={"help": "attention heads"})
    head_width: int = attrs.field(
        default=64, metadata={"help": "width of a head; the attention's inner width is heads x head_width"}
    )
    logits: bool = attrs.field(
        # It gets no gradient, which data-parallel training dislikes.
        default=False,
        metadata={"help": "carry the unused vocabulary head that published weights hold"},
    )
    embedding_std: float = attrs.field(
        default=0.02, validator=attrs.validators.gt(0), metadata={"help": "std of the fresh token and position tables"}
    )

    @property
    def least_layers(self) -> int:
        """The fewest layers that make sense for these tokens."""
        return 1

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Cross-attention of `width`, whatever the latents."""
        return CondSpec(crossattn=self.width)

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size."""
        for name, least in (("width", 1), ("layers", self.least_layers), ("heads", 1), ("head_width", 1)):
            if getattr(self, name) < least:
                yield f"{name} is {getattr(self, name)}; set {least} or more"
