"""The descriptors of these parts."""

from __future__ import annotations

from ldm_contract_plugin.runs import config
from ldm_core import Component

_PACKAGE = "ldm_contract_plugin.runs"


def components() -> list[Component]:
    """A guidance with momentum, a cache of features, guidance by blurred queries."""
    return [
        Component(
            kind="guidance",
            name="momentum",
            config=config.MomentumConfig,
            factory=f"{_PACKAGE}.momentum:Momentum",
            summary="guidance by an average over the steps",
            source="Sadat et al. 2024, arXiv 2410.02416",
        ),
        Component(
            kind="adapter",
            name="feature_cache",
            config=config.FeatureCacheConfig,
            factory=f"{_PACKAGE}.feature_cache:FeatureCache",
            summary="keeps the features of a declared span from step to step",
            source="Ma et al. 2023, arXiv 2312.00858",
        ),
        Component(
            kind="guidance",
            name="blur",
            config=config.BlurGuidanceConfig,
            factory=f"{_PACKAGE}.blurred_queries:BlurGuidance",
            summary="guidance away from blurred attention",
            source="Hong 2024, arXiv 2408.00760",
        ),
        Component(
            kind="adapter",
            name="query_blur",
            config=config.QueryBlurConfig,
            factory=f"{_PACKAGE}.blurred_queries:QueryBlur",
            summary="blurs queries in the branches that ask for it",
        ),
    ]
