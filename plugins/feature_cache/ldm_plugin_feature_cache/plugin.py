"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """Caches of features: by steps, and by change."""
    package = "ldm_plugin_feature_cache"
    return [
        Component(
            kind="adapter",
            name="deep_cache",
            config=f"{package}.config:DeepCacheConfig",
            factory=f"{package}.deep_cache:DeepCache",
            summary="computes the deep blocks at every few steps of a run, and keeps their output between",
            source="Ma et al. 2023, arXiv 2312.00858",
        ),
        Component(
            kind="adapter",
            name="first_block_cache",
            config=f"{package}.config:FirstBlockCacheConfig",
            factory=f"{package}.first_block_cache:FirstBlockCache",
            summary="computes the first block, and the others where its output has changed",
            source="ParaAttention's first-block cache; Liu et al. 2024, arXiv 2411.19108",
        ),
    ]
