"""Options of the parts that need the run of a sampler. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ldm_core.contracts import Accepts, AdapterConfig, GuidanceConfig

QUERY_BLUR = "query_blur"
"""The option of a branch with blurred queries: the standard deviation, in tokens."""


@attrs.frozen(kw_only=True)
class MomentumConfig(GuidanceConfig):
    """Guidance by an average of the differences of all steps so far (Sadat et al. 2024, arXiv 2410.02416)."""

    needs_null = True
    scale: float = attrs.field(default=3.0, metadata={"help": "1: the conditional estimate"})
    momentum: float = attrs.field(
        default=-0.5, metadata={"help": "share of the average of before; below 0: away from it"}
    )


@attrs.frozen(kw_only=True)
class FeatureCacheConfig(AdapterConfig):
    """Keeps what the blocks of a declared span made (Ma et al. 2023, arXiv 2312.00858)."""

    learns = False
    interval: int = attrs.field(
        default=2, validator=attrs.validators.ge(1), metadata={"help": "every how many steps all is computed"}
    )
    branch: int = attrs.field(
        default=0, validator=attrs.validators.ge(0), metadata={"help": "number of the span that is kept"}
    )


@attrs.frozen(kw_only=True)
class BlurGuidanceConfig(GuidanceConfig):
    """Guidance away from an estimate with blurred attention (Hong 2024, arXiv 2408.00760)."""

    needs_null = False
    scale: float = attrs.field(default=3.0, metadata={"help": "1: the conditional estimate"})
    blur: float = attrs.field(default=2.0, metadata={"help": "standard deviation of the blur, in tokens"})

    @property
    def branch_options(self) -> Sequence[str]:
        """The blur."""
        return (QUERY_BLUR,)


@attrs.frozen(kw_only=True)
class QueryBlurConfig(AdapterConfig):
    """Blurs the queries of the self-attention in the branches that ask for it; it takes no settings."""

    learns = False

    @property
    def accepts(self) -> Accepts:
        """The option."""
        return Accepts(options=(QUERY_BLUR,))
